"""`dlq list`, `groups`, `stats` and `show`: what they print for people and for programs."""

from __future__ import annotations

import re

import pytest

from celery_guardrails import clock
from celery_guardrails.cli.dlq.show import _lasted
from celery_guardrails.letters.record import LetterFailure
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.recovery import transition
from tests.unit.cli.conftest import Shop, lines
from tests.unit.cli.deaths import DIED, TRACEBACK, dead

PROMISED = [
    "id", "task", "task_id", "state", "reason", "generation", "error", "attempts", "queue", "published_at", "died_at",
    "correlation", "affected", "args_preview", "kwargs_preview", "owner", "runbook", "environment", "worker", "version",
]  # fmt: skip
EVIL = LetterFailure(
    type="shop.errors.BadFile", message="no \x1b[31mred\x07 [bold]file[/]\nsecond line", category=Category.BUG,
    fingerprint="ab" * 8,
)  # fmt: skip


def test_without_an_archive_there_is_one_line_and_exit_code_1(shop: Shop) -> None:
    result = shop.run("dlq", "list")
    assert result.exit_code == 1
    assert len(lines(result.stderr)) == 1
    assert "no archive yet" in result.stderr
    assert not shop.path.exists()


def test_list_shows_the_newest_first_with_whole_ids_where_it_is_piped(shop: Shop) -> None:
    letters = [dead(number) for number in (1, 2, 3)]
    shop.archive(*letters)
    result = shop.run("dlq", "list")
    shown = lines(result.stdout)
    assert shown[0].split() == ["Id", "State", "Died", "Task", "Reason", "Error"]
    assert [line.split()[0] for line in shown[1:]] == [letter.id for letter in reversed(letters)]
    assert "3 dead letters found" in result.stderr


def test_list_says_how_many_match_beyond_the_limit(shop: Shop) -> None:
    shop.archive(*(dead(number) for number in range(5)))
    result = shop.run("dlq", "list", "--limit", "2")
    assert len(lines(result.stdout)) == 3
    assert "5 dead letters found, the newest 2 shown" in result.stderr


def test_an_empty_list_is_empty(shop: Shop) -> None:
    shop.archive()
    assert shop.run("dlq", "list").stdout == ""
    assert shop.json("dlq", "list") == []
    assert shop.json("dlq", "groups") == []
    assert shop.run("dlq", "groups").stdout == ""
    assert shop.json("dlq", "stats")["total"] == 0


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["task:shop.mail"], 2),
        (["--task", "shop.*"], 3),
        (["--task", "shop.import"], 1),
        (["--state", "discarded"], 0),
        (["--reason", "permanent_error"], 1),
        (["error:Timeout*", "arg.order_id:1"], 1),
        (["--task", "shop.mail", "!arg.order_id:1"], 1),
        (['text:"smtp did"'], 3),
    ],
)
def test_queries_and_options_narrow_the_list(shop: Shop, words: list[str], found: int) -> None:
    shop.archive(dead(1), dead(2), dead(3, task="shop.import", reason=Reason.PERMANENT_ERROR))
    assert len(shop.json("dlq", "list", *words)) == found


@pytest.mark.parametrize(
    "words", [["tsk:x"], ["word"], ["state:ded"], ["--state", "ded"], ["--reason", "x"], ["--limit", "0"]]
)
def test_a_wrong_query_is_wrong_usage(shop: Shop, words: list[str]) -> None:
    shop.archive()
    result = shop.run("dlq", "list", *words)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_a_wrong_field_is_answered_with_the_nearest_right_one(shop: Shop) -> None:
    shop.archive()
    assert "did you mean 'task'?" in shop.run("dlq", "list", "tsk:x").stderr


def test_list_as_json_has_the_names_of_show(shop: Shop) -> None:
    shop.archive(dead(1))
    (item,) = shop.json("dlq", "list")
    assert set(item) & set(PROMISED) == set(PROMISED) - {
        "attempts", "correlation", "affected", "args_preview", "kwargs_preview", "runbook"
    }  # fmt: skip
    assert item["error"]["type"] == "TimeoutError"
    assert item["died_at"] == "2026-03-01T14:01:00+00:00"


def test_show_as_json_has_exactly_the_promised_keys_first(shop: Shop) -> None:
    letter = dead(1)
    shop.archive(letter)
    shown = shop.json("dlq", "show", letter.id[:8])
    assert list(shown)[: len(PROMISED)] == PROMISED
    assert list(shown["error"]) == ["type", "message", "category", "fingerprint", "traceback"]
    assert [list(attempt) for attempt in shown["attempts"]] == [
        ["number", "started_at", "ended_at", "error", "message", "worker", "delay"]
    ] * 3
    assert shown["id"] == letter.id
    assert shown["args_preview"] == "(1,)"
    assert shown["correlation"] == {"order_id": "1"}
    assert shown["published_at"] == DIED.isoformat()


def test_show_tells_what_why_when_and_what_next(shop: Shop) -> None:
    letter = dead(1)
    shop.archive(letter)
    result = shop.run("dlq", "show", letter.id)
    for words in (
        "shop.mail is dead, attempts_exhausted", "3 of 3 attempts failed", "TimeoutError: smtp did not answer",
        "2026-03-01 14:01:00 UTC", "(1,)", "'password': '***'", "customer=ada", "order_id=1", "shop.tasks", "w1@host",
        "growth", "https://runbooks.example/mail", "2026.3", "9.8 s", "250 ms", 'File "shop.py", line 7',
        f"dlq requeue {letter.id} --reason", f"dlq discard {letter.id} --reason",
    ):  # fmt: skip
        assert words in result.stdout


def test_show_follows_the_life_of_a_letter(shop: Shop) -> None:
    letter = dead(1)
    store = shop.archive(letter)
    now = clock.now()
    transition.discard(store, letter.id, "ada@pc", "spam", now)
    shown = shop.run("dlq", "show", letter.id).stdout
    assert "shop.mail is discarded (it had died: attempts_exhausted)" in shown
    assert "dlq restore" in shown
    assert "ada@pc" in shown
    assert "spam" in shown
    transition.restore(store, letter.id, "ada@pc", "no spam", now)
    claim = transition.claim_requeue(store, letter.id, "ada@pc", "mended", now)
    assert "the broker has not taken it: a guardian tries again" in shop.run("dlq", "show", letter.id).stdout
    transition.requeue_published(store, claim, now)
    shown = shop.run("dlq", "show", letter.id).stdout
    assert re.search(r"It was put back \d+ s ago, and no worker has reported what became of it\.", shown)
    assert "where a worker runs it as a plain task" in shown
    shop.archive(dead(1, id="second", dead_letter_id=letter.id, generation=1, claim_token=claim.token))
    shown = shop.run("dlq", "show", letter.id).stdout
    assert "is dead again" in shown
    assert "Deaths" in shown
    assert "Put back      1 time" in shown
    record = shop.json("dlq", "show", letter.id)
    assert [death["generation"] for death in record["deaths"]] == [0, 1]
    assert [entry["action"] for entry in record["audit"]] == ["discard", "restore", "requeue", "die"]
    assert record["regressed"] is True


def test_show_names_the_plain_task_that_reports_nothing(shop: Shop) -> None:
    letter = dead(1, task="vendor.sync")
    store = shop.archive(letter)
    claim = transition.claim_requeue(store, letter.id, "ada@pc", "mended", clock.now())
    transition.requeue_published(store, claim, clock.now())
    assert "Its task is a plain one in this application" in shop.run("dlq", "show", letter.id).stdout


def test_show_lists_the_values_of_many_items(shop: Shop) -> None:
    letter = dead(1, affected={"customer": tuple(f"c{n}" for n in range(30)), "shop": "s"})
    shop.archive(letter)
    assert "customer=c0, c1, " in (shown := shop.run("dlq", "show", letter.id).stdout)
    assert "c19 and 10 more; shop=s" in shown
    assert len(shop.json("dlq", "list", "arg.customer:*c29*")) == 1
    assert shop.json("dlq", "show", letter.id)["affected"] == {"customer": [f"c{n}" for n in range(30)], "shop": "s"}


def test_show_says_that_a_recovered_letter_needs_nothing(shop: Shop) -> None:
    letter = dead(1)
    store = shop.archive(letter)
    claim = transition.claim_requeue(store, letter.id, "ada", "mended", clock.now())
    with store.begin() as conn:
        from celery_guardrails.store.transition import confirm_recovered

        confirm_recovered(conn, claim.id, claim.generation, clock.now())
    assert "Nothing: it has succeeded" in shop.run("dlq", "show", letter.id).stdout


def test_a_message_cannot_steer_the_terminal(shop: Shop) -> None:
    letter = dead(1, failure=EVIL, explanation="", attempts=())
    shop.archive(letter)
    for words in (["dlq", "list"], ["dlq", "show", letter.id], ["dlq", "groups"]):
        result = shop.run(*words)
        assert "\x1b" not in result.stdout
        assert "\x07" not in result.stdout
        assert "[bold]file[/] second line" in result.stdout


@pytest.mark.parametrize("words", [["zzz"], [""]])
def test_an_unknown_id_is_one_line_and_exit_code_1(shop: Shop, words: list[str]) -> None:
    shop.archive(dead(1))
    result = shop.run("dlq", "show", *words)
    assert result.exit_code == 1
    assert len(lines(result.stderr)) == 1
    assert result.stdout == ""


def test_groups_by_error_and_by_task(shop: Shop) -> None:
    shop.archive(dead(1), dead(2), dead(3, task="shop.import", failure=EVIL))
    first, second = shop.json("dlq", "groups")
    assert (first["task"], first["count"], first["states"]) == ("shop.mail", 2, {"dead": 2})
    assert second["fingerprint"] == EVIL.fingerprint
    assert [group["count"] for group in shop.json("dlq", "groups", "--by", "error")] == [2, 1]
    shown = shop.run("dlq", "groups").stdout
    assert "2 dead" in shown
    assert first["fingerprint"] in shown
    assert shop.run("dlq", "groups", "--by", "nothing").exit_code == 2


def test_stats_count_by_state_reason_and_task(shop: Shop) -> None:
    shop.archive(dead(1), dead(2, reason=Reason.EXPIRED))
    found = shop.json("dlq", "stats")
    assert found["by_state"] == {"dead": 2}
    assert found["by_reason"] == {"attempts_exhausted": 1, "expired": 1}
    assert found["by_task"] == {"shop.mail": 2}
    assert found["oldest_dead_at"] == "2026-03-01T14:01:00+00:00"
    shown = shop.run("dlq", "stats").stdout
    assert "2 dead letters in the archive." in shown
    assert "2026-03-01 14:01:00 UTC" in shown


def test_reading_says_how_many_wait_unarchived(shop: Shop) -> None:
    from celery_guardrails.transport.dead_letter import DeadLetterSender
    from celery_guardrails.transport.publisher import Publisher

    shop.archive()
    publisher = Publisher(shop.app)
    DeadLetterSender(publisher, "shop.dead").send(dead(1))
    DeadLetterSender(publisher, "shop.dead").send(dead(2), queue="shop.imports")
    publisher.close()
    result = shop.run("dlq", "list")
    assert "2 dead letters still wait in the queue, not in the archive yet: run celery -A PROJ guardian --once" in (
        result.stderr
    )


def test_a_broker_that_is_down_does_not_keep_anybody_from_reading(shop: Shop) -> None:
    shop.archive(dead(1))
    shop.app.conf.broker_url = "redis://127.0.0.1:1/0"
    result = shop.run("dlq", "list")
    assert result.exit_code == 0
    assert "The broker does not answer" in result.stderr
    shop.app.conf.broker_url = "memory://"


def test_how_long_an_attempt_ran() -> None:
    attempt = dead(1).attempts[0]
    assert _lasted(attempt.started_at, attempt.ended_at) == "250 ms"
    assert _lasted(None, attempt.ended_at) == ""


def test_a_letter_is_found_by_its_task_id(shop: Shop) -> None:
    letters = [dead(1, task_id="4f1c5d0e-3a52-4b9e-8a61-6f10b4d5c0aa"), dead(2)]
    shop.archive(*letters)
    for given in (letters[0].task_id, "4f1c5d0e", letters[0].id, letters[0].id[:12]):
        assert shop.json("dlq", "show", given)["id"] == letters[0].id
    assert [one["id"] for one in shop.json("dlq", "list", f"task_id:{letters[0].task_id}")] == [letters[0].id]
    assert [one["id"] for one in shop.json("dlq", "list", "task_id:4f1c*")] == [letters[0].id]
    assert shop.json("dlq", "list", "task_id:4f1c") == []


def test_several_letters_of_one_task_id_are_listed(shop: Shop) -> None:
    letters = [dead(number, task_id="bill-ada") for number in (1, 2, 3)]
    shop.archive(*letters, dead(4, task_id="bill-ada-2"))
    result = shop.run("dlq", "show", "bill-ada")
    assert result.exit_code == 1
    assert [line.split()[0] for line in lines(result.stdout)[1:]] == [letter.id for letter in reversed(letters)]
    assert "bill-ada: is the task id of several, write which: " in result.stderr
    whole = shop.run("dlq", "show", "bill-ada", "--json")
    assert (whole.exit_code, whole.stdout) == (1, "")
    begun = shop.run("dlq", "show", "bill-")
    assert "bill-: several begin so, write which: " in begun.stderr


@pytest.mark.parametrize("verb", [["list"], ["groups"], ["stats"], ["discard", "--reason", "x", "--yes"]])
@pytest.mark.parametrize("sign", ["", "!"])
def test_an_argument_that_is_not_kept_is_said(shop: Shop, verb: list[str], sign: str) -> None:
    shop.archive(dead(1), dead(2))
    result = shop.run("dlq", *verb, "task:shop.mail", f"{sign}arg.ordr_id:1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "none of the dead letters meant keeps ordr_id: they keep customer, order_id" in result.stderr
    assert "did you mean 'arg.order_id'?" in result.stderr
    assert shop.json("dlq", "list", "arg.order_id:99") == []
    assert shop.json("dlq", "list", "task:nobody arg.ordr_id:1") == []


def test_what_may_have_run_is_marked_and_offers_nothing_that_runs_it(shop: Shop) -> None:
    letters = [dead(1), dead(2, reason=Reason.WORKER_LOST, explanation="its worker was lost while it ran")]
    shop.archive(*letters)
    listed = lines(shop.run("dlq", "list").stdout)[1:]
    assert "worker_lost, may have run already" in listed[0]
    assert "may have run" not in listed[1]
    assert [one["may_have_run"] for one in shop.json("dlq", "list")] == [True, False]
    shown = shop.run("dlq", "show", letters[1].id).stdout
    why = "it was running when its worker was killed, and may have done part of its work"
    assert f"It may have run already: {why}." in shown
    assert "dlq requeue" not in shown
    assert f"dlq discard {letters[1].id}" in shown
    whole = shop.json("dlq", "show", letters[1].id)
    assert whole["may_have_run"] is True
    assert whole["may_have_run_because"] == why
    other = shop.json("dlq", "show", letters[0].id)
    assert (other["may_have_run"], other["may_have_run_because"]) == (False, None)
    assert "dlq requeue" in shop.run("dlq", "show", letters[0].id).stdout


def test_an_error_of_unknown_kind_is_not_called_permanent(shop: Shop) -> None:
    unknown = LetterFailure(type="own.Odd", message="odd", category=Category.UNKNOWN, fingerprint="v1:u")
    letters = [dead(1, reason=Reason.PERMANENT_ERROR, failure=unknown), dead(2, reason=Reason.PERMANENT_ERROR)]
    shop.archive(*letters)
    for words in (shop.run("dlq", "list", "category:unknown").stdout, shop.run("dlq", "show", letters[0].id).stdout):
        assert "not retried" in words
        assert "permanent" not in words
    assert shop.json("dlq", "show", letters[0].id)["reason"] == "permanent_error"


def test_an_attempt_does_not_repeat_the_error_that_stands_above(shop: Shop) -> None:
    shop.archive(dead(1))
    shown = shop.run("dlq", "show", "task-1").stdout
    assert shown.count("smtp did not answer") == 1 + TRACEBACK.count("smtp did not answer")
    assert shown.count("the error above") == 3
