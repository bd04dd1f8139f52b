"""`dlq requeue`, `discard` and `restore`: who may, what is counted first, what is said at the end."""

from __future__ import annotations

import shlex
import threading
from datetime import timedelta
from typing import Any

import click
import pytest

from celery_guardrails import clock
from celery_guardrails.cli.actor import whoever_runs_this
from celery_guardrails.cli.dlq import change
from celery_guardrails.cli.dlq.awaiting import Awaited
from celery_guardrails.errors import StoreError
from celery_guardrails.policy.decision import Reason
from celery_guardrails.recovery import transition
from celery_guardrails.store import claim as claims
from celery_guardrails.store import lease
from celery_guardrails.store import letter as letters
from celery_guardrails.store import transition as moves
from tests.unit.cli.conftest import Shop, lines
from tests.unit.cli.deaths import dead

REASON = "it's over"


def in_queue(shop: Shop, queue: str = "shop.tasks") -> list[dict[str, Any]]:
    """The headers of the messages that wait in a queue, oldest first."""
    found = []
    with shop.app.connection_for_read() as connection:
        simple = connection.SimpleQueue(queue)
        while simple.qsize():
            message = simple.get_nowait()
            found.append(message.headers)
            message.ack()
        simple.close()
    return found


def test_requeue_by_id_publishes_and_tells_the_audit_trail(shop: Shop) -> None:
    letter = dead(1)
    shop.archive(letter)
    result = shop.run("dlq", "requeue", letter.id[:8], "--reason", "provider is back", "--by", "ada")
    assert result.exit_code == 0
    said = f"Requeued 1 dead letter. What became of it: celery -A PROJ guardrails dlq show {letter.id}\n"
    assert result.stdout == said
    assert [headers["id"] for headers in in_queue(shop)] == ["task-1"]
    shown = shop.json("dlq", "show", letter.id)
    assert (shown["state"], shown["generation"]) == ("requeued", 1)
    assert (shown["requeued_by"], shown["requeue_reason"]) == ("ada", "provider is back")


def test_who_did_it_is_known_without_by(shop: Shop) -> None:
    letter = dead(1)
    shop.archive(letter)
    shop.run("dlq", "discard", letter.id, "--reason", "spam")
    (entry,) = shop.json("dlq", "show", letter.id)["audit"]
    assert "@" in entry["actor"]


def test_a_user_without_a_name_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert whoever_runs_this().startswith("unknown@")


def test_requeue_by_query_leaves_alone_what_is_not_dead(shop: Shop) -> None:
    found = [dead(number) for number in range(3)] + [dead(9, task="shop.import")]
    store = shop.archive(*found)
    transition.discard(store, found[0].id, "ada", "spam", clock.now())
    outcome = shop.json("dlq", "requeue", "task:shop.mail", "--reason", "mended", "--yes")
    assert outcome["matched"] == 2
    assert sorted(outcome["done"]) == sorted(letter.id for letter in found[1:3])
    assert outcome["failed"] == []
    assert len(in_queue(shop)) == 2


def test_a_query_says_the_exact_count_first(shop: Shop) -> None:
    found = [dead(number) for number in range(3)]
    store = shop.archive(*found)
    transition.discard(store, found[0].id, "ada", "spam", clock.now())
    result = shop.run("dlq", "discard", "task:shop.mail", "--reason", "spam", "--yes")
    assert lines(result.stderr) == ["2 dead letters to discard. Left alone: 1 that matches, but is not dead."]
    assert result.stdout == "Discarded 2 dead letters.\n"


def test_a_query_is_frozen_at_its_instant(shop: Shop) -> None:
    later = dead(1, died_at=clock.now() + timedelta(hours=1))
    shop.archive(later)
    assert shop.json("dlq", "requeue", "task:*", "--reason", "x", "--yes")["matched"] == 0


def test_nothing_that_matches_is_no_failure(shop: Shop) -> None:
    shop.archive(dead(1))
    result = shop.run("dlq", "requeue", "task:nothing", "--reason", "x", "--yes")
    assert (result.exit_code, result.stdout) == (0, "Requeued 0 dead letters.\n")


def test_a_dry_run_changes_nothing(shop: Shop) -> None:
    shop.archive(dead(1), dead(2))
    result = shop.run("dlq", "requeue", "task:shop.mail", "--reason", "x", "--dry-run")
    assert result.stdout == "Would requeue 2 dead letters. Nothing was changed.\n"
    assert shop.json("dlq", "requeue", "task:shop.mail", "--reason", "x", "--dry-run") == {
        "action": "requeue", "dry_run": True, "matched": 2
    }  # fmt: skip
    assert shop.json("dlq", "stats")["by_state"] == {"dead": 2}
    assert in_queue(shop) == []


@pytest.mark.parametrize("verb", ["requeue", "discard", "restore"])
@pytest.mark.parametrize("words", [["some-id"], ["--reason", "x"], ["some-id", "--reason", "  "]])
def test_an_id_and_a_reason_are_required(shop: Shop, verb: str, words: list[str]) -> None:
    shop.archive(dead(1))
    result = shop.run("dlq", verb, *words)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_one_line_for_each_that_cannot_be_changed(shop: Shop) -> None:
    found = [dead(1), dead(2)]
    store = shop.archive(*found)
    transition.discard(store, found[0].id, "ada", "spam", clock.now())
    result = shop.run("dlq", "discard", found[0].id, found[1].id, "zzz", "--reason", "spam")
    assert result.exit_code == 1
    assert len(lines(result.stderr)) == 2
    assert "it was discarded at " in lines(result.stderr)[0]
    assert "restore it first" not in lines(result.stderr)[0]
    assert lines(result.stderr)[1] == "zzz: not found"
    assert result.stdout == "Discarded 1 dead letter; 2 could not be discarded.\n"


def test_failures_as_json(shop: Shop) -> None:
    shop.archive(dead(1))
    outcome = shop.json("dlq", "restore", "zzz", "--reason", "x", code=1)
    assert outcome["failed"] == [{"id": "zzz", "problem": "not found"}]
    assert outcome["stopped"] is None


def test_restore_takes_back_what_was_discarded(shop: Shop) -> None:
    letter = dead(1)
    store = shop.archive(letter)
    transition.discard(store, letter.id, "ada", "spam", clock.now())
    assert shop.run("dlq", "restore", "task:*", "--reason", "no spam", "--yes").stdout == "Restored 1 dead letter.\n"
    assert shop.json("dlq", "show", letter.id)["state"] == "dead"


def test_a_broker_that_takes_nothing_ends_it_after_three(shop: Shop) -> None:
    shop.archive(*(dead(number) for number in range(6)))
    shop.app.conf.broker_url = "redis://127.0.0.1:1/0"
    outcome = shop.json("dlq", "requeue", "task:shop.mail", "--reason", "x", "--yes", code=1)
    shop.app.conf.broker_url = "memory://"
    assert len(outcome["failed"]) == 3
    assert outcome["stopped"] == "the broker takes no messages"
    assert shop.json("dlq", "stats")["by_state"] == {"dead": 6}


def test_an_archive_that_fails_ends_it_with_what_was_done(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [dead(1), dead(2)]
    shop.archive(*found)
    really = transition.discard

    def failing(store: Any, letter_id: str, *rest: Any) -> Any:
        if letter_id == found[1].id:
            raise StoreError("sqlite:///x", "disk full")
        return really(store, letter_id, *rest)

    monkeypatch.setattr(transition, "discard", failing)
    result = shop.run("dlq", "discard", found[0].id, found[1].id, "--reason", "x")
    assert result.exit_code == 1
    assert result.stdout == "Discarded 1 dead letter; stopped, because archive sqlite:///x: disk full.\n"


class _Terminal:
    """Makes the command believe that a person sits in front of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
        self.asked: list[str] = []

        def confirm(text: str, **_: Any) -> bool:
            self.asked.append(text)
            if not answer:
                raise click.Abort
            return True

        monkeypatch.setattr(click, "confirm", confirm)
        monkeypatch.setattr(change, "is_attended", lambda: True)


def test_on_a_terminal_a_query_is_asked_about(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.archive(dead(1), dead(2))
    terminal = _Terminal(monkeypatch, answer=False)
    result = shop.run("dlq", "discard", "task:shop.mail", "--reason", "x")
    assert terminal.asked == ["Discard 2 dead letters?"]
    assert result.exit_code == 1
    assert shop.json("dlq", "stats")["by_state"] == {"dead": 2}


def test_yes_ids_and_consent_go_on(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [dead(1), dead(2), dead(3)]
    shop.archive(*found)
    terminal = _Terminal(monkeypatch, answer=True)
    shop.run("dlq", "discard", found[0].id, "--reason", "x")
    shop.run("dlq", "discard", "arg.order_id:2", "--reason", "x", "--yes")
    assert terminal.asked == []
    shop.run("dlq", "discard", "arg.order_id:3", "--reason", "x")
    assert terminal.asked == ["Discard 1 dead letter?"]
    assert shop.json("dlq", "stats")["by_state"] == {"discarded": 3}


@pytest.mark.parametrize("verb", ["requeue", "discard", "restore"])
@pytest.mark.parametrize("answer", ["n\n", "y\n", ""])
def test_without_a_terminal_a_query_wants_yes(shop: Shop, verb: str, answer: str) -> None:
    found = [dead(1), dead(2)]
    store = shop.archive(*found)
    transition.discard(store, found[1].id, "ada", "spam", clock.now())
    result = shop.run("dlq", verb, "task:shop.*", "--reason", REASON, stdin=answer)
    assert (result.exit_code, result.stdout) == (2, "")
    again = f"celery -A PROJ guardrails dlq {verb} {shlex.quote('task:shop.*')} --reason {shlex.quote(REASON)} --yes"
    assert again in result.stderr
    assert shop.json("dlq", "stats")["by_state"] == {"dead": 1, "discarded": 1}
    assert in_queue(shop) == []


def test_only_a_yes_is_a_yes(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.archive(dead(1))
    monkeypatch.setattr(change, "is_attended", lambda: True)
    for answer in ("n\n", "\n", "", "maybe\n", "no\n"):
        assert shop.run("dlq", "discard", "task:shop.mail", "--reason", "x", stdin=answer).exit_code == 1
        assert shop.json("dlq", "stats")["by_state"] == {"dead": 1}
    assert shop.run("dlq", "discard", "task:shop.mail", "--reason", "x", stdin="y\n").exit_code == 0
    assert shop.json("dlq", "stats")["by_state"] == {"discarded": 1}


def test_an_id_may_be_that_of_the_task(shop: Shop) -> None:
    found = [dead(1, task_id="4f1c5d0e-3a52-4b9e-8a61-6f10b4d5c0aa"), dead(2)]
    shop.archive(*found)
    assert shop.json("dlq", "discard", "4f1c5d0e", "task-2", "--reason", "x")["done"] == [one.id for one in found]


def test_of_several_letters_with_one_task_id_none_is_changed(shop: Shop) -> None:
    found = [dead(number, task_id="bill-ada") for number in (1, 2)]
    shop.archive(*found)
    result = shop.run("dlq", "requeue", "bill-ada", "--reason", "x")
    assert result.exit_code == 1
    assert lines(result.stderr)[0] == (
        f"bill-ada: is the task id of several, write which: {found[1].id}, {found[0].id}"
    )
    assert shop.json("dlq", "requeue", "task_id:bill-ada", "--reason", "x", "--yes")["matched"] == 2


LOST = {"reason": Reason.WORKER_LOST, "explanation": "its worker was lost while it ran"}


def test_a_query_leaves_out_what_may_have_run_counted_and_named(shop: Shop) -> None:
    found = [dead(1), dead(2, **LOST), dead(3, reason=Reason.RESULT_UNSTORABLE), dead(4, policy={"acks": "early"})]
    shop.archive(*found)
    result = shop.run("dlq", "requeue", "task:shop.mail", "--reason", "x", "--dry-run")
    assert result.stdout == "Would requeue 1 dead letter. Nothing was changed.\n"
    (_, said) = lines(result.stderr)
    assert said.startswith("Left out: 3 that may have run already (1 attempts_exhausted, 1 result_unstorable, 1 worker")
    assert all(letter.id in said for letter in found[1:])
    assert "celery -A PROJ guardrails dlq list 'task:shop.mail may_have_run:yes'" in said
    assert len(shop.json("dlq", "list", "task:shop.mail may_have_run:yes")) == 3
    outcome = shop.json("dlq", "requeue", "task:shop.mail", "--reason", "x", "--yes")
    assert (outcome["matched"], outcome["done"]) == (1, [found[0].id])
    assert outcome["left_out"]["count"] == 3
    assert sorted(outcome["left_out"]["ids"]) == sorted(letter.id for letter in found[1:])
    assert len(in_queue(shop)) == 1
    whole = shop.json("dlq", "requeue", "task:shop.mail", "--reason", "x", "--yes", "--include-may-have-run")
    assert whole["matched"] == 3
    assert "left_out" not in whole
    assert len(in_queue(shop)) == 3


def test_an_id_of_what_may_have_run_wants_yes(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [dead(1), dead(2, **LOST)]
    shop.archive(*found)
    ids = [letter.id for letter in found]
    refused = shop.run("dlq", "requeue", *ids, "--reason", "x")
    assert (refused.exit_code, refused.stdout) == (2, "")
    why = "it was running when its worker was killed, and may have done part of its work"
    assert f"{ids[1]} may have run already: {why}." in refused.stderr
    assert f"celery -A PROJ guardrails dlq show {ids[1]}" in refused.stderr
    assert in_queue(shop) == []
    monkeypatch.setattr(change, "is_attended", lambda: True)
    assert shop.run("dlq", "requeue", *ids, "--reason", "x", stdin="n\n").exit_code == 1
    assert shop.json("dlq", "stats")["by_state"] == {"dead": 2}
    assert shop.json("dlq", "requeue", ids[0], "--reason", "x")["done"] == [ids[0]]
    assert shop.run("dlq", "requeue", ids[1], "--reason", "x", stdin="y\n").exit_code == 0
    assert len(in_queue(shop)) == 2


def test_yes_puts_back_what_may_have_run(shop: Shop) -> None:
    letter = dead(1, **LOST)
    shop.archive(letter)
    assert shop.run("dlq", "requeue", letter.id, "--reason", "looked", "--yes").exit_code == 0
    assert shop.run("dlq", "discard", letter.id, "--reason", "x").exit_code == 1  # requeued, and nobody asks


def test_wait_reports_what_recovered_and_what_died_again(shop: Shop) -> None:
    found = [dead(1), dead(2)]
    store = shop.archive(*found)
    with store.begin() as conn:
        lease.heartbeat(conn, "g", clock.now(), clock.now(), "host", 1)

    def guardian() -> None:
        while not all(headers_seen()):
            threading.Event().wait(0.02)
        with store.begin() as conn:
            moves.confirm_recovered(conn, found[0].id, 1, clock.now())
            token = claims.add(conn, found[1].id, 1)
        shop.archive(dead(2, id="again", dead_letter_id=found[1].id, generation=1, claim_token=token))

    def headers_seen() -> list[bool]:
        with store.read() as conn:
            return [letters.get(conn, letter.id).summary.requeue_published_at is not None for letter in found]

    thread = threading.Thread(target=guardian)
    thread.start()
    result = shop.run("dlq", "requeue", "task:shop.mail", "--reason", "mended", "--yes", "--wait", "30")
    thread.join()
    assert result.exit_code == 1
    assert result.stdout == "Requeued 2 dead letters. 1 recovered, 1 died again.\n"
    assert "No guardian runs" not in result.stderr


def test_wait_ends_when_the_time_is_over_and_says_that_no_guardian_runs(shop: Shop) -> None:
    letter = dead(1)
    shop.archive(letter)
    outcome = shop.json("dlq", "requeue", letter.id, "--reason", "mended", "--wait", "0.01", code=1)
    assert (outcome["recovered"], outcome["dead_again"], outcome["unknown"]) == (0, 0, 1)


def test_what_was_awaited_in_words() -> None:
    assert str(Awaited(recovered=3)) == "3 recovered."
    assert str(Awaited(1, 2, 3)) == "1 recovered, 2 died again, 3 not known yet."
    assert not Awaited(1, 0, 1).all_recovered
