"""`guardrails retries`: what waits, running it now, and deciding that it will not run."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from celery_guardrails import clock
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.cli.retries import _due
from celery_guardrails.errors import PublishError
from celery_guardrails.letters.codec import decode
from celery_guardrails.letters.record import Letter, letter_id
from celery_guardrails.letters.replay import replay
from celery_guardrails.letters.work import Work
from celery_guardrails.policy.decision import Reason
from celery_guardrails.transport.dead_letter import DeadLetterSender
from tests.unit.cli.conftest import Shop, lines
from tests.unit.cli.waiting_in_memory import InMemoryWaiting, waiting

SOON = clock.now() + timedelta(hours=10)
FIRST = waiting("aaaaaaaa-1", SOON, failed=2)
SECOND = waiting("aaaaaaaa-2", SOON + timedelta(hours=1), task="shop.import")
THIRD = waiting("bbbbbbbb-1", SOON + timedelta(days=2), failed=1)


@pytest.fixture
def kept(shop: Shop) -> InMemoryWaiting:
    made = InMemoryWaiting(THIRD, SECOND, FIRST)
    Guardrails.of(shop.app).__dict__["waiting"] = made
    return made


def letters_in(shop: Shop, queue: str = "shop.dead") -> list[Letter]:
    found = []
    with shop.app.connection_for_read() as connection:
        simple = connection.SimpleQueue(queue)
        while simple.qsize():
            message = simple.get_nowait()
            body = message.body
            found.append(decode(body.tobytes() if isinstance(body, memoryview) else body))
            message.ack()
        simple.close()
    return found


def test_list_shows_the_next_due_first_and_why_it_waits(shop: Shop, kept: InMemoryWaiting) -> None:
    result = shop.run("retries", "list")
    rows = lines(result.stdout)
    assert [row.split()[0] for row in rows[1:]] == ["aaaaaaaa-1", "aaaaaaaa-2", "bbbbbbbb-1"]
    assert "SmtpTimeout: no [31m answer" in rows[1]
    assert "(in 9 h" in rows[1]
    assert "countdown or eta" in rows[2]
    assert "hunter2" not in result.output
    assert lines(result.stderr) == ["3 waiting tasks."]


def test_list_as_json(shop: Shop, kept: InMemoryWaiting) -> None:
    found = shop.json("retries", "list", "--task", "shop.m*")
    assert [entry["id"] for entry in found] == [FIRST.id, THIRD.id]
    assert list(found[0]) == ["id", "task", "task_id", "queue", "attempt", "due_at", "due_in", "last_error"]
    assert found[0]["attempt"] == 3
    assert 32_400 < found[0]["due_in"] <= 36_000
    assert found[0]["last_error"]["type"] == "shop.SmtpTimeout"
    assert shop.json("retries", "list", "--task", "shop.import")[0]["last_error"] is None


def test_list_says_when_there_are_more(shop: Shop, kept: InMemoryWaiting) -> None:
    assert lines(shop.run("retries", "list", "--limit", "2").stderr) == [
        "At least 2 waiting tasks, the next due shown (--limit)."
    ]
    assert lines(shop.run("retries", "list", "--limit", "3").stderr) == ["3 waiting tasks."]
    assert len(shop.json("retries", "list", "--limit", "1")) == 1


def test_list_pages_through_what_is_longer_than_a_page(shop: Shop, kept: InMemoryWaiting) -> None:
    kept.kept = [waiting(f"id{number:05}", SOON + timedelta(seconds=number)) for number in range(1203)]
    assert len(shop.json("retries", "list", "--limit", "5000")) == 1203
    moved = shop.json("retries", "run-now", "--task", "shop.*")
    assert (moved["matched"], moved["moved"], kept.kept) == (1203, 1203, [])


def test_nothing_waits(shop: Shop, kept: InMemoryWaiting) -> None:
    kept.kept = []
    assert shop.json("retries", "list") == []
    assert shop.run("retries", "list").stdout == ""


def test_an_attempt_that_is_due_says_so() -> None:
    now = datetime(2026, 3, 1, 14, 0, tzinfo=timezone.utc)
    assert _due(now - timedelta(seconds=5), now) == "13:59:55 (now)"
    assert _due(now + timedelta(seconds=65), now) == "14:01:05 (in 1 min)"
    assert _due(now + timedelta(days=3), now) == "03-04 14:00 (in 3 d)"


def test_run_now_by_a_beginning_of_the_id_or_the_task_id(shop: Shop, kept: InMemoryWaiting) -> None:
    result = shop.run("retries", "run-now", "bbbb", "task-aaaaaaaa-2")
    assert result.exit_code == 0
    assert result.stdout == "Put 2 waiting tasks into their queues.\n"
    assert kept.ran == [THIRD.id, SECOND.id]
    assert shop.run("retries", "run-now", "aaaa").stdout == "Put 1 waiting task into its queue.\n"


def test_an_id_that_means_several_is_refused_with_the_candidates(shop: Shop, kept: InMemoryWaiting) -> None:
    result = shop.run("retries", "run-now", "aaaa")
    assert result.exit_code == 1
    assert lines(result.stderr) == ["aaaa: 2 ids begin with this: aaaaaaaa-2 (shop.import), aaaaaaaa-1 (shop.mail)"]
    assert kept.ran == []
    kept.kept = [waiting(f"c{number}", SOON) for number in range(9)]
    assert "and 4 more" in shop.run("retries", "cancel", "c", "--reason", "x").stderr
    exact = waiting("c", SOON)
    kept.kept.append(exact)
    assert shop.json("retries", "run-now", "c")["moved"] == 1


@pytest.mark.parametrize("given", ["zzz", ""])
def test_an_id_that_means_nothing(shop: Shop, kept: InMemoryWaiting, given: str) -> None:
    outcome = shop.json("retries", "run-now", given, code=1)
    assert outcome["failed"][0]["id"] == given
    assert "nothing waits under this id" in outcome["failed"][0]["problem"]
    assert len(kept.kept) == 3


@pytest.mark.parametrize("words", [[], ["aaaa", "--task", "x"]])
def test_run_now_takes_ids_or_a_task(shop: Shop, kept: InMemoryWaiting, words: list[str]) -> None:
    assert shop.run("retries", "run-now", *words).exit_code == 2


def test_what_became_due_meanwhile_is_told(shop: Shop, kept: InMemoryWaiting) -> None:
    kept.steal = {FIRST.id, THIRD.id}
    assert "runs already" in shop.run("retries", "run-now", FIRST.id).stderr
    outcome = shop.json("retries", "cancel", THIRD.id, "--reason", "x", code=1)
    assert "had become due and runs" in outcome["failed"][0]["problem"]
    assert len(letters_in(shop)) == 1


def test_cancel_makes_a_dead_letter_that_tells_who_and_why(shop: Shop, kept: InMemoryWaiting) -> None:
    result = shop.run("retries", "cancel", FIRST.id, "--reason", "order was withdrawn", "--by", "ada")
    assert result.exit_code == 0
    assert result.stdout == "Cancelled 1 waiting task. See it: celery -A PROJ guardrails dlq list reason:cancelled\n"
    assert FIRST not in kept.kept
    (letter,) = letters_in(shop)
    assert letter.id == letter_id(Work(FIRST.task_id, FIRST.task, FIRST.queue, "publish"), 3, 0, Reason.CANCELLED)
    assert letter.explanation == "ada cancelled it while it waited for attempt 3: order was withdrawn"
    assert (letter.failure.type, letter.owner, letter.queue) == ("shop.SmtpTimeout", "growth", "shop.tasks")
    assert [attempt.number for attempt in letter.attempts] == [1, 2]
    assert letter.preview.args == "(7,)"
    assert "hunter2" not in letter.preview.kwargs
    assert letter.message.body == FIRST.envelope.body
    again = replay(letter, 1, letter.origin_id, "t0ken", clock.now())
    assert (again.body, again.queue, again.headers["eta"]) == (FIRST.envelope.body, "shop.tasks", None)


def test_cancel_a_task_that_never_ran_goes_to_its_own_queue(shop: Shop, kept: InMemoryWaiting) -> None:
    outcome = shop.json("retries", "cancel", SECOND.id, "--reason", "not needed", "--by", "ada")
    (letter,) = letters_in(shop, "shop.imports")
    assert outcome == {"action": "cancel", "done": [SECOND.id], "letters": [letter.id], "failed": []}
    assert (letter.failure.type, letter.failure.message) == ("cancelled", "ada: not needed")


def test_cancelling_what_nobody_here_can_read_keeps_the_message(shop: Shop, kept: InMemoryWaiting) -> None:
    entry = waiting("dddd", SOON, task="gone.away")
    unread = replace(entry.envelope, content_type="application/x-python-serialize")
    unread.headers["group"] = 5
    entry = replace(entry, envelope=unread)
    kept.kept = [entry]
    shop.run("retries", "cancel", "dddd", "--reason", "x")
    (letter,) = letters_in(shop)
    assert (letter.preview.args, letter.group_id, letter.message.body) == ("", None, entry.envelope.body)


def test_what_the_broker_does_not_take_goes_on_waiting(
    shop: Shop, kept: InMemoryWaiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PublishError("shop.dead", "down")

    monkeypatch.setattr(DeadLetterSender, "send", refuse)
    result = shop.run("retries", "cancel", FIRST.id, "--reason", "x")
    assert result.exit_code == 1
    assert "the task still waits" in result.stderr
    assert FIRST in kept.kept


@pytest.mark.parametrize("words", [[], ["--reason", " "]])
def test_cancel_needs_a_reason(shop: Shop, kept: InMemoryWaiting, words: list[str]) -> None:
    assert shop.run("retries", "cancel", FIRST.id, *words).exit_code == 2
    assert FIRST in kept.kept


@pytest.mark.parametrize(
    "words", [["list"], ["run-now", "x"], ["run-now", "--task", "x"], ["cancel", "x", "--reason", "y"]]
)
def test_a_broker_that_cannot_list_says_so_in_one_line(shop: Shop, words: list[str]) -> None:
    result = shop.run("retries", *words, "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(lines(result.stderr)) == 1
    assert "cannot be listed on this broker" in result.stderr
