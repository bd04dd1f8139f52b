"""What `dlq requeue` says last: where to look, and why there was nothing to put back."""

from __future__ import annotations

from celery_guardrails.letters.record import SELF_TEST
from celery_guardrails.policy.decision import Reason
from tests.unit.cli.conftest import Shop
from tests.unit.cli.deaths import dead


def test_many_that_are_put_back_are_found_again_with_the_command_shown(shop: Shop) -> None:
    found = [dead(number) for number in range(4)]
    shop.archive(*found)
    query = shop.run("dlq", "requeue", "task:shop.mail state:dead arg.order_id:*", "--reason", "x", "--yes")
    shown = "celery -A PROJ guardrails dlq list 'task:shop.mail arg.order_id:*'"
    assert query.stdout == f"Requeued 4 dead letters. What became of them: {shown}\n"
    assert len(shop.json("dlq", "list", "task:shop.mail arg.order_id:*")) == 4


def test_several_ids_are_looked_at_one_by_one(shop: Shop) -> None:
    found = [dead(number) for number in range(2)]
    shop.archive(*found)
    result = shop.run("dlq", "requeue", *(letter.id for letter in found), "--reason", "x")
    assert result.stdout == "Requeued 2 dead letters. What became of each: celery -A PROJ guardrails dlq show ID\n"


def test_none_requeued_says_why_in_the_last_line(shop: Shop) -> None:
    shop.archive(dead(2, reason=Reason.WORKER_LOST))
    one = shop.run("dlq", "requeue", "task:shop.mail", "--reason", "x", "--yes")
    assert one.exit_code == 1
    assert one.stdout == "Requeued none: 1 left out, because it may have run already.\n"
    shop.archive(dead(3, reason=Reason.WORKER_LOST))
    two = shop.run("dlq", "requeue", "task:shop.mail", "--reason", "x", "--yes")
    assert two.stdout == "Requeued none: 2 left out, because they may have run already.\n"


def test_the_command_to_type_again_keeps_what_was_typed(shop: Shop) -> None:
    shop.archive(dead(1))
    typed = ("task:shop.mail", "--reason", "is back", "--by", "ada", "--wait", "30", "--include-may-have-run")
    result = shop.run("dlq", "requeue", *typed)
    assert result.exit_code == 2
    again = "requeue task:shop.mail --reason 'is back' --by ada --wait 30 --include-may-have-run --yes"
    assert " ".join(result.stderr.split()).endswith(again)
    assert shop.run("dlq", "discard", "state:dead", "--reason", "x", "--json").stderr.strip().endswith("--json --yes")


def test_nobody_waits_for_ever(shop: Shop) -> None:
    result = shop.run("dlq", "requeue", "task:shop.mail", "--reason", "x", "--wait", "inf")
    assert result.exit_code == 2
    assert "86400" in result.stderr


def test_the_help_of_a_discard_speaks_of_no_requeue(shop: Shop) -> None:
    words = " ".join(shop.run("dlq", "discard", "--help").stdout.split())
    assert "With a QUERY: do not ask first." in words
    assert "requeue" not in words


def test_the_help_of_a_restore_speaks_of_what_it_asks_about(shop: Shop) -> None:
    words = " ".join(shop.run("dlq", "restore", "--help").stdout.split())
    assert "Do not ask first, not even about requeued letters." in words
    assert "may have run" not in words


def test_the_self_test_is_not_counted(shop: Shop) -> None:
    shop.archive(dead(1), dead(2, task=SELF_TEST))
    assert shop.json("dlq", "stats")["by_task"] == {"shop.mail": 1}
    assert shop.json("dlq", "stats", "--task", SELF_TEST)["total"] == 1
