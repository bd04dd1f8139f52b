"""`dlq restore` of letters that were put back and of which nobody hears."""

from __future__ import annotations

import pytest

from celery_guardrails import clock
from celery_guardrails.cli.dlq import change
from celery_guardrails.letters.record import Letter
from celery_guardrails.letters.recovery import Recovery
from celery_guardrails.recovery import transition
from celery_guardrails.store import letter as letters
from tests.unit.cli.conftest import Shop, lines
from tests.unit.cli.deaths import dead


def put_back(shop: Shop, *numbers: int) -> list[Letter]:
    found = [dead(number) for number in numbers]
    store = shop.archive(*found)
    for letter in found:
        claim = transition.claim_requeue(store, letter.id, "ada", "mended", clock.now())
        transition.requeue_published(store, claim, clock.now())
    return found


def test_a_requeued_letter_wants_yes_and_says_since_when(shop: Shop) -> None:
    (letter,) = put_back(shop, 1)
    refused = shop.run("dlq", "restore", letter.id, "--reason", "purged")
    assert (refused.exit_code, refused.stdout) == (2, "")
    words = " ".join(refused.stderr.split())
    assert f"{letter.id} was requeued" in words
    assert "may still be on its way" in words
    assert "--yes" in words
    assert shop.json("dlq", "stats")["by_state"] == {"requeued": 1}
    done = shop.run("dlq", "restore", letter.id, "--reason", "purged", "--yes")
    assert done.stdout == "Restored 1 dead letter.\n"
    assert shop.json("dlq", "stats")["by_state"] == {"dead": 1}


@pytest.mark.parametrize(("answer", "state"), [("n\n", "requeued"), ("y\n", "dead")])
def test_on_a_terminal_it_is_asked_about(shop: Shop, monkeypatch: pytest.MonkeyPatch, answer: str, state: str) -> None:
    (letter,) = put_back(shop, 1)
    monkeypatch.setattr(change, "is_attended", lambda: True)
    result = shop.run("dlq", "restore", letter.id, "--reason", "purged", stdin=answer)
    assert "Restore all the same?" in result.stderr
    assert shop.json("dlq", "stats")["by_state"] == {state: 1}


def test_a_query_takes_requeued_letters_only_where_it_says_so(shop: Shop) -> None:
    put_back(shop, 1, 2)
    none = shop.json("dlq", "restore", "task:shop.mail", "--reason", "purged", "--yes")
    assert (none["matched"], none["done"]) == (0, [])
    outcome = shop.json("dlq", "restore", "task:shop.mail state:requeued", "--reason", "purged", "--yes")
    assert (outcome["matched"], len(outcome["done"])) == (2, 2)
    assert shop.json("dlq", "stats")["by_state"] == {"dead": 2}


@pytest.mark.parametrize("verb", ["discard", "requeue"])
def test_what_is_refused_says_what_to_type(shop: Shop, verb: str) -> None:
    (letter,) = put_back(shop, 1)
    result = shop.run("dlq", verb, letter.id, "--reason", "gone")
    assert result.exit_code == 1
    assert f'guardrails dlq restore {letter.id} --reason "..."' in lines(result.stderr)[0]


def test_show_names_the_way_back(shop: Shop) -> None:
    (letter,) = put_back(shop, 1)
    shown = shop.run("dlq", "show", letter.id).stdout
    assert f'celery -A PROJ guardrails dlq restore {letter.id} --reason "..."' in shown


def test_show_says_that_an_older_worker_may_have_reported_it(shop: Shop) -> None:
    (letter,) = put_back(shop, 1)
    assert "older version" not in shop.run("dlq", "show", letter.id).stdout
    with shop.archive().begin() as conn:
        letters.recover(conn, [Recovery(letter.id, 1, clock.now())], clock.now())
    shown = shop.run("dlq", "show", letter.id).stdout
    assert "A report without a claim token was refused. A worker of an older version sends such reports" in shown
