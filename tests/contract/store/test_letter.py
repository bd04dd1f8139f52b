"""Reading the archive: what each term of a query finds, pages without gaps, groups and counts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from celery_guardrails.errors import DeadLetterAmbiguous, DeadLetterNotFound, QueryError
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.recovery import search as reading
from celery_guardrails.recovery.query import parse_query
from celery_guardrails.store import transition
from celery_guardrails.store.engine import open_store
from celery_guardrails.store.record import State
from tests.archive import migrated_file
from tests.contract.store.conftest import NOW, Mortuary

REST = "-0000-4000-8000-000000000000"


def fill(mortuary: Mortuary) -> Mortuary:
    mortuary.archive_new(
        id=f"aaaa1111{REST}",
        task_id="job-1",
        task="billing.charge",
        queue="mail",
        owner="ann",
        correlation={"order_id": "4711"},
    )
    mortuary.archive_new(
        id=f"aaaa2222{REST}", task_id="job-2", task="billing.refund", error="requests.exceptions.Timeout",
        message="100% of API keys_ gone", died_at=NOW - timedelta(hours=3), version="2026.11", environment="staging",
        affected={"user": "u*1"},
    )  # fmt: skip
    mortuary.archive_new(
        id=f"bbbb3333{REST}", task_id="job-22", task="Billing.charge", category=Category.BUG,
        reason=Reason.PERMANENT_ERROR, worker="w2@[host]",
        fingerprint="v1:bar", error="KeyError", died_at=NOW - timedelta(days=2),
    )  # fmt: skip
    return mortuary


@pytest.fixture
def filled(mortuary: Mortuary) -> Mortuary:
    return fill(mortuary)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def read_only(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortuary]:
    """The same for all tests that change nothing."""
    if request.param == "sqlite":
        url = migrated_file(tmp_path_factory.mktemp("read-only") / "archive.db")
    else:
        url = request.getfixturevalue("shared_postgresql").migrated_url()
    store = open_store(url)
    yield fill(Mortuary(store))
    store.close()


def found(mortuary: Mortuary, text: str) -> str:
    """The digits of the ids of what a query finds."""
    query = parse_query(text, NOW)
    page = reading.search(mortuary.store, query, newest_first=True)
    assert reading.count(mortuary.store, query) == len(page.letters)
    return " ".join(row.id[7] for row in page.letters)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", "1 2 3"),
        ("task:billing.charge", "1"),
        ("task:billing.*", "1 2"),
        ("task:*.charge", "1 3"),
        ('task:"billing.*"', ""),
        ("!task:billing.*", "3"),
        ("error:Timeout", "2"),
        ("error:Timeout*", "1 2"),
        ("error:requests.*", "2"),
        ("error:requests.exceptions.Timeout", "2"),
        ("error:imeout", ""),
        ("reason:permanent_error", "3"),
        ("reason:*_error", "3"),
        ("state:dead", "1 2 3"),
        ("!state:dead", ""),
        ("queue:mail task:billing.refund", "2"),
        ("category:bug", "3"),
        ("fingerprint:v1:bar", "3"),
        ("worker:w2@[host]", "3"),
        ("worker:w2@[h*", "3"),
        ("worker:w?@*", ""),
        ("owner:ann", "1"),
        ("!owner:ann", "2 3"),
        ("environment:staging", "2"),
        ("release:2026.11", "2"),
        ("task_id:job-2", "2"),
        ("task_id:job*", "1 2 3"),
        ("id:aaaa", "1 2"),
        ("id:aaaa2222", "2"),
        ("id:*3333-*", "3"),
        ("since:2h", "1"),
        ("before:2h", "2 3"),
        ("since:1d before:1h", "2"),
        ("!since:2h", "2 3"),
        (f"since:{NOW.isoformat()}", "1"),
        ("text:api", "2"),
        ('text:"API KEYS_"', "2"),
        ("text:100%", "2"),
        ("text:key_error", ""),
        ("text:keyerror", "3"),
        ("text:refund", "2"),
        ("arg.order_id:4711", "1"),
        ("arg.order_id:47*", "1"),
        ("!arg.order_id:4711", "2 3"),
        ('arg.user:"u*1"', "2"),
        ("arg.user:u*", "2"),
        ("arg.nothing:4711", ""),
        ('owner:"nul\0"', ""),
    ],
)
def test_each_term_finds_what_it_says(read_only: Mortuary, text: str, ids: str) -> None:
    assert found(read_only, text) == ids


def test_an_id_may_be_shortened_while_it_is_unambiguous(filled: Mortuary) -> None:
    assert reading.get(filled.store, "b").summary.id == f"bbbb3333{REST}"
    assert reading.get(filled.store, f" aaaa1111{REST} ").summary.id == f"aaaa1111{REST}"
    with pytest.raises(DeadLetterNotFound, match="several begin so, write which: aaaa"):
        reading.get(filled.store, "aaaa")
    for unknown in ("aaaa3", "", "   ", "%", "_aaa1111", "BBBB3333", "bbbb33334"):
        with pytest.raises(DeadLetterNotFound, match="not found"):
            reading.get(filled.store, unknown)
    assert reading.deaths(filled.store, "unknown") == []


def test_a_letter_is_found_by_its_task_id_whole_or_shortened(filled: Mortuary) -> None:
    assert reading.get(filled.store, "job-1").summary.id == f"aaaa1111{REST}"
    assert reading.get(filled.store, "job-2").summary.id == f"aaaa2222{REST}"  # though job-22 begins so
    filled.archive_new(id=f"cccc4444{REST}", task_id="job-2", died_at=NOW + timedelta(seconds=1))
    with pytest.raises(DeadLetterAmbiguous) as several:
        reading.get(filled.store, "job-2")
    assert several.value.choices == (f"cccc4444{REST}", f"aaaa2222{REST}")
    assert several.value.of_one_task_id
    with pytest.raises(DeadLetterAmbiguous, match="several begin so") as begun:
        reading.get(filled.store, "job")
    assert not begun.value.of_one_task_id
    for unknown in ("job-3", "job_1", "JOB-1"):
        with pytest.raises(DeadLetterNotFound, match="not found"):
            reading.get(filled.store, unknown)


@pytest.mark.parametrize("newest_first", [True, False])
def test_pages_leave_nothing_out_though_many_died_at_once(mortuary: Mortuary, newest_first: bool) -> None:
    archived = [mortuary.letter(died_at=NOW + timedelta(seconds=number // 4)) for number in range(23)]
    mortuary.archive(*archived)
    seen, after = [], None
    while True:
        page = reading.search(mortuary.store, limit=5, after=after, newest_first=newest_first)
        seen += [(row.died_at, row.id) for row in page.letters]
        if page.next is None:
            break
        after = page.next
    assert seen == sorted(((letter.died_at, letter.id) for letter in archived), reverse=newest_first)
    assert [row.id for row in reading.each(mortuary.store, batch=7)] == [
        letter.id for letter in sorted(archived, key=lambda letter: (letter.died_at, letter.id))
    ]


def test_groups_are_by_task_and_fingerprint_and_show_their_latest_death(mortuary: Mortuary) -> None:
    for minute in range(3):
        mortuary.archive_new(message=f"message {minute}", died_at=NOW + timedelta(minutes=minute))
    gone = mortuary.archive_new(task="other", version=None)
    with mortuary.store.begin() as conn:
        transition.discard(conn, gone.id, NOW)
    large, small = reading.groups(mortuary.store)
    assert large.key == {"task": "billing.charge", "fingerprint": "v1:f00"}
    assert (large.count, large.error, large.message, large.regressed) == (3, "TimeoutError", "message 2", 0)
    assert (large.first_died_at, large.last_died_at) == (NOW, NOW + timedelta(minutes=2))
    assert (large.states, small.states, small.sample_id) == ({"dead": 3}, {"discarded": 1}, gone.id)
    assert len(reading.groups(mortuary.store, limit=1)) == 1
    (only,) = reading.groups(mortuary.store, parse_query("task:other", NOW), by="version")
    assert (only.key, only.count) == ({"version": ""}, 1)
    with pytest.raises(QueryError, match="did you mean 'fingerprint'"):
        reading.groups(mortuary.store, by="fingerprnt")


@pytest.mark.parametrize("by", ["task", "error", "queue", "worker", "version", "fingerprint"])
def test_every_grouping_counts_everything_once(read_only: Mortuary, by: str) -> None:
    assert sum(group.count for group in reading.groups(read_only.store, by=by)) == 3


def test_stats_of_an_empty_and_of_a_filled_archive(mortuary: Mortuary) -> None:
    empty = reading.stats(mortuary.store)
    assert (empty.total, empty.by_state, empty.oldest_dead_at) == (0, {}, None)
    old = mortuary.archive_new(died_at=NOW - timedelta(days=1))
    mortuary.archive_new()
    mortuary.archive_new(task="other", reason=Reason.EXPIRED)
    with mortuary.store.begin() as conn:
        transition.discard(conn, old.id, NOW)
    stats = reading.stats(mortuary.store)
    assert (stats.total, stats.by_state) == (3, {State.DEAD: 2, State.DISCARDED: 1})
    assert (stats.by_task, stats.by_reason) == (
        {"billing.charge": 2, "other": 1},
        {"attempts_exhausted": 2, "expired": 1},
    )
    assert stats.oldest_dead_at == NOW
    assert reading.stats(mortuary.store, parse_query("task:other", NOW)).total == 1
