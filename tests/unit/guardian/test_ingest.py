"""What becomes of a batch when the archive refuses one letter, or everything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from celery_guardrails.errors import StoreError
from celery_guardrails.figures.summary import Summary
from celery_guardrails.guardian import ingest as module
from celery_guardrails.guardian.ingest import Ingest, IngestReport
from celery_guardrails.letters.codec import decode, encode
from celery_guardrails.letters.record import Letter, LetterFailure, OriginalMessage, letter_id
from celery_guardrails.letters.work import Work
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.recovery import search
from celery_guardrails.recovery.query import parse_query
from celery_guardrails.store import probe as probing
from celery_guardrails.store import reconcile
from celery_guardrails.store.engine import Store, open_store
from celery_guardrails.store.metadata import metadata
from celery_guardrails.store.table import dead_letter
from tests.archive import migrated_file

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Delivery:
    body: bytes
    queue: str = "dead"
    content_type: str | None = "application/json"
    headers: dict[str, Any] = field(default_factory=dict)


def letter(number: int, task: str = "shop.mail") -> Letter:
    return Letter(
        id=letter_id(Work(f"t{number}", "", "", ""), 1, 0, Reason.PERMANENT_ERROR),
        task=task,
        task_id=f"t{number}",
        reason=Reason.PERMANENT_ERROR,
        failure=LetterFailure(type="KeyError", message="'x'", category=Category.BUG, fingerprint="v1:1"),
        queue="mail",
        first_failed_at=NOW,
        died_at=NOW + timedelta(seconds=number),
        message=OriginalMessage.model_construct(
            body=b"[]", content_type="application/json", content_encoding="utf-8", headers={}, properties={}
        ),
    )


def dead(number: int, task: str = "shop.mail") -> Delivery:
    return Delivery(encode(letter(number, task)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = open_store(migrated_file(tmp_path / "archive.sqlite3"))
    yield made
    made.close()


@pytest.fixture
def ingest(store: Store) -> Ingest:
    return Ingest(store, ["dead.recovered"], "test")


def refuse(store: Store, condition: str) -> None:
    """Let the archive refuse letters, as a constraint or a broken page would."""
    when = f"BEFORE INSERT ON {dead_letter.name} WHEN {condition}"
    with store.begin() as conn:
        conn.execute(text(f"CREATE TRIGGER refusal {when} BEGIN SELECT RAISE(ABORT, 'no'); END"))


def missing(store: Store) -> list[str]:
    """The deaths that are missing once guardians have looked for them for ten minutes."""
    after = timedelta(minutes=10)
    with store.begin() as conn:
        for minute in range(11):
            reconcile.look_up(conn, NOW + timedelta(minutes=minute), backlog=False)
        return [each for one in reconcile.unreconciled(conn, NOW + after, after) for each in one.ids]


@pytest.mark.parametrize("is_counted_first", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        {"reason": "of_a_newer_worker"},
        {"died_at": "yesterday"},
        {"environment": None, "task": 3},
        {"correlation": json.loads("[" * 80 + "]" * 80)},
    ],
)
def test_a_letter_that_cannot_be_read_is_archived_under_another_id_and_not_missing(
    ingest: Ingest, store: Store, is_counted_first: bool, change: dict[str, Any]
) -> None:
    published, lost = letter(1), letter(2)
    body = json.dumps({**json.loads(encode(published)), **change}).encode()
    summary = Summary("s1", "test", "w@h", 1, 0, 0, dead={published.id: "shop.mail", lost.id: "shop.mail"})

    def count() -> None:
        with store.begin() as conn:
            reconcile.note_counted(conn, [summary], NOW)

    if is_counted_first:
        count()
    assert ingest.run_once([Delivery(body)], NOW).archived == 1
    assert ingest.run_once([Delivery(body)], NOW).known == 1  # the broker delivers it again
    if not is_counted_first:
        count()
    with store.read() as conn:
        assert published.id not in [row.id for row in conn.execute(select(dead_letter.c.id))]
    assert missing(store) == [lost.id]


def test_a_message_that_says_nothing_of_itself_is_archived_all_the_same(ingest: Ingest, store: Store) -> None:
    for body in (b"{}", b'{"id": 3}', b"[]", b"\xff", b"[" * 100_000, b'{"id": "x", "v": 1}'):
        assert ingest.run_once([Delivery(body)], NOW).archived == 1
    assert missing(store) == []


@pytest.mark.parametrize("size", [1, 4])
def test_a_letter_that_the_archive_refuses_is_kept_with_its_bytes(
    ingest: Ingest, store: Store, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    refuse(store, "NEW.task = 'shop.cursed'")
    cursed = dead(2, "shop.cursed")
    batch = [dead(1), cursed, dead(3), dead(1)] if size == 4 else [cursed]
    report = ingest.run_once(batch, NOW)
    assert (report.settled, report.held) == (batch, [])
    assert (report.archived, report.recovered, report.known) == ((3, 0, 1) if size == 4 else (1, 0, 0))
    (kept,) = search.each(store, parse_query("reason:undecodable", NOW))
    assert search.get(store, kept.id).letter.message.body == cursed.body
    assert "the archive refused the letter" in search.get(store, kept.id).letter.explanation
    assert "is archived as undecodable" in caplog.text
    assert ingest.run_once([cursed], NOW).known == 1


def test_a_letter_that_the_archive_takes_in_no_form_is_held_alone_and_said_once(
    ingest: Ingest, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(store, "NEW.task IN ('shop.cursed', '(undecodable)')")
    cursed = dead(2, "shop.cursed")
    for batch in ([cursed], [dead(1), cursed, dead(3)], [cursed, dead(4)]):
        report = ingest.run_once(batch, NOW)
        assert report.held == [cursed]
        assert report.settled == [delivery for delivery in batch if delivery != cursed]
    assert search.count(store) == 3
    assert caplog.text.count("a message stays in dead") == 1


def test_an_error_of_ours_about_one_letter_concerns_that_letter_alone(
    ingest: Ingest, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is: a defect in reading or in archiving it is not the archive's, nor another letter's."""
    for number, problem in enumerate((RecursionError("deep"), MemoryError(), OverflowError(), KeyError("x"))):
        cursed = dead(100 + number, "shop.cursed")

        def read(body: bytes, cursed: bytes = cursed.body, problem: Exception = problem) -> Letter:
            if body == cursed:
                raise problem
            return decode(body)

        monkeypatch.setattr(module, "decode", read)
        report = ingest.run_once([dead(10 + number), cursed, dead(20 + number)], NOW)
        assert (report.archived, len(report.settled), report.held) == (3, 3, [])
    assert search.count(store, parse_query("reason:undecodable", NOW)) == 4


def test_other_kinds_in_such_a_batch_are_dealt_with_too(ingest: Ingest, store: Store) -> None:
    refuse(store, "NEW.task = 'shop.cursed'")
    newer = Delivery(json.dumps({**json.loads(encode(letter(9))), "v": 99}).encode())
    recovery = json.dumps({"v": 1, "dead_letter_id": "unknown", "generation": 1, "at": NOW.isoformat()}).encode()
    cursed = dead(2, "shop.cursed")
    batch = [Delivery(b"not json"), cursed, newer, Delivery(recovery, "dead.recovered")]
    report = ingest.run_once(batch, NOW)
    assert report.held == [newer]
    assert (report.archived, report.recovered, report.known) == (2, 0, 1)


def test_an_archive_that_refuses_everything_raises(ingest: Ingest, store: Store) -> None:
    store.close()
    path = str(store.engine.url.database)
    Path(path).unlink()
    Path(path).mkdir()
    with pytest.raises(StoreError):
        ingest.run_once([dead(1), dead(2)], NOW)
    with pytest.raises(StoreError):
        ingest.run_once([dead(1)], NOW)


def test_an_archive_that_refuses_each_letter_raises(ingest: Ingest, store: Store) -> None:
    """Then nothing is wrong with the letters: held back, they would stay in the queue until the guardian ends."""
    refuse(store, "1")
    with pytest.raises(StoreError):
        ingest.run_once([dead(1), dead(2), dead(3)], NOW)
    with store.begin() as conn:
        conn.execute(text("DROP TRIGGER refusal"))
    assert ingest.run_once([dead(1), dead(2), dead(3)], NOW).archived == 3


def test_an_archive_that_goes_away_between_letters_holds_none_of_them(
    ingest: Ingest, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held ones would stay in the queue until the guardian ends; raised, the whole batch is tried again."""
    refuse(store, "NEW.task = 'shop.cursed'")
    away = StoreError("sqlite:///x", "locked")
    probed = iter([True])

    def probe(store: Store) -> None:
        if not next(probed, False):
            raise away

    monkeypatch.setattr(probing, "probe", probe)
    with pytest.raises(StoreError):
        ingest.run_once([dead(1), dead(2, "shop.cursed"), dead(3)], NOW)
    monkeypatch.undo()
    report: IngestReport[Delivery] = ingest.run_once([dead(1), dead(2, "shop.cursed"), dead(3)], NOW)
    assert (report.archived, report.known, len(report.held)) == (2, 1, 0)


@pytest.mark.parametrize("field", ["priority", "generation"])
def test_a_letter_whose_numbers_do_not_fit_the_archive_does_not_end_the_guardian(
    ingest: Ingest, store: Store, field: str
) -> None:
    cursed = Delivery(json.dumps({**json.loads(encode(letter(7))), field: 10**30}).encode())
    for batch in ([cursed], [dead(1), cursed, dead(2)]):
        report = ingest.run_once(batch, NOW)
        assert cursed in [*report.held, *report.settled]
    assert search.count(store) >= 2


def test_a_letter_with_half_a_character_does_not_end_the_guardian(ingest: Ingest, store: Store) -> None:
    """JSON can say one half of a surrogate pair, UTF-8 cannot."""
    body = encode(letter(7)).replace(b'"mail"', b'"\\ud800"')
    assert b"ud800" in body
    report = ingest.run_once([Delivery(body), dead(1)], NOW)
    assert len(report.settled) + len(report.held) == 2
    assert search.count(store) >= 1


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b"[" * 100_000, b'{"dead_letter_id": 5, "generation": 1, "at": "2026-01-01T00:00:00+00:00"}',
        b'{"dead_letter_id": "x", "generation": 1, "at": "2026-01-01T00:00:00"}',
        b'{"dead_letter_id": "x", "generation": "one", "at": "2026-01-01T00:00:00+00:00"}',
        b'{"dead_letter_id": "x", "generation": 1, "at": 7}', b'"x"', b"\xff",
        b'{"dead_letter_id": "x", "generation": 1000000000000000000000000000000, "at": "2026-01-01T00:00:00+00:00"}',
        b'{"dead_letter_id": "x", "generation": 1e999, "at": "2026-01-01T00:00:00+00:00"}',
    ],
)  # fmt: skip
def test_what_is_no_recovery_report_is_archived_and_shown(ingest: Ingest, store: Store, body: bytes) -> None:
    report = ingest.run_once([Delivery(body, "dead.recovered")], NOW)
    assert (report.archived, len(report.settled)) == (1, 1)
    assert search.count(store) == 1


def test_an_empty_batch_is_nothing(ingest: Ingest) -> None:
    report = ingest.run_once([], NOW)
    assert (report.settled, report.held, report.archived) == ([], [], 0)


def test_a_full_disk_is_no_letters_fault(ingest: Ingest, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that is taken back may fit where the letter does not: nothing may be called undecodable then."""
    pages = pragma(store, "page_count")
    pragma(store, f"max_page_count = {pages + 2}")
    large = Delivery(encode(letter(5).model_copy(update={"explanation": "x" * 200_000})))
    for batch in ([large], [large, dead(1)]):
        with pytest.raises(StoreError, match="full") as raised:
            ingest.run_once(batch, NOW)
        assert raised.value.full
    pragma(store, "max_page_count = 1000000")
    assert ingest.run_once([large, dead(1)], NOW).archived == 2


def pragma(store: Store, words: str) -> int:
    """Ask the connection that the store uses next."""
    with store.read() as conn:
        return int(conn.exec_driver_sql(f"PRAGMA {words}").scalar_one())


def test_a_probe_leaves_nothing(ingest: Ingest, store: Store) -> None:
    ingest.probe()
    with store.read() as conn:
        for name in metadata.tables:
            assert conn.execute(text(f"SELECT count(*) FROM {name}")).scalar() == 0, name
