"""How many letters there are and came, and the totals of deaths that outlive them."""

from __future__ import annotations

from datetime import timedelta

from celery_guardrails.letters.record import SELF_TEST
from celery_guardrails.policy.decision import Reason
from celery_guardrails.recovery import transition
from celery_guardrails.store import tally
from celery_guardrails.store.engine import Store
from tests.contract.store.conftest import NOW, Mortuary
from tests.contract.store.test_concurrency import WORKERS, race

MINUTE = timedelta(minutes=1)


def came(store: Store, parts: int = 12, environment: str = "production") -> list[int]:
    with store.read() as conn:
        return tally.came_since(conn, NOW - 120 * MINUTE, NOW, parts, environment)


def test_letters_are_counted_by_when_they_died(mortuary: Mortuary) -> None:
    for minutes in (120, 119.9, 60, 0.1, 0, 121):
        mortuary.archive_new(died_at=NOW - minutes * MINUTE)
    mortuary.archive_new(died_at=NOW - MINUTE, environment="staging")
    mortuary.archive_new(died_at=NOW - MINUTE, task=SELF_TEST)
    assert came(mortuary.store) == [2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert came(mortuary.store, 2, "staging") == [0, 1]


def test_what_stands_in_the_archive(mortuary: Mortuary) -> None:
    old, new = (mortuary.archive_new(died_at=NOW - minutes * MINUTE) for minutes in (90, 5))
    mortuary.archive_new(reason=Reason.EXPIRED, died_at=NOW - MINUTE)
    put_back = mortuary.archive_new(task="shop.mail")
    mortuary.archive_new(task=SELF_TEST)
    transition.claim_requeue(mortuary.store, put_back.id, "ann", "mended", NOW)
    with mortuary.store.read() as conn:
        found = [(one.task, one.reason, one.state, one.count, one.oldest_at) for one in tally.standing(conn)]
        undecided = tally.undecided_by_task(conn, "production")
    assert found == [
        ("billing.charge", "attempts_exhausted", "dead", 2, old.died_at),
        ("billing.charge", "expired", "dead", 1, NOW - MINUTE),
        ("shop.mail", "attempts_exhausted", "requeued", 1, NOW),
    ]
    assert [(one.task, one.count, one.oldest_at) for one in undecided] == [("billing.charge", 3, old.died_at)]
    assert new.died_at > old.died_at


def test_totals_of_deaths_outlive_the_letters_and_are_added_up_by_all(url: str, mortuary: Mortuary) -> None:
    letters = [mortuary.letter(task=f"shop.task{number}") for number in range(5)]

    def add(store: Store, number: int) -> None:
        for _ in range(5):
            with store.begin() as conn:
                tally.add_deaths(conn, letters if number % 2 else letters[::-1], NOW)
                tally.add_deaths(conn, [mortuary.letter(task=SELF_TEST)], NOW)

    race(url, add)
    with mortuary.store.read() as conn:
        found = tally.deaths_in_all(conn)
    assert found == {("production", each.task, "attempts_exhausted"): 5 * WORKERS for each in letters}


def test_an_empty_archive_has_nothing(store: Store) -> None:
    with store.read() as conn:
        assert (tally.standing(conn), tally.undecided_by_task(conn, "production"), tally.deaths_in_all(conn)) == (
            [],
            [],
            {},
        )
    assert came(store) == [0] * 12
    with store.begin() as conn:
        tally.add_deaths(conn, [], NOW)
