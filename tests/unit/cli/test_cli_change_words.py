"""What `dlq requeue` says last: where to look, and why there was nothing to put back."""

from __future__ import annotations

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
    assert one.stdout == "Requeued none: 1 left out, because it may have run already.\n"
    shop.archive(dead(3, reason=Reason.WORKER_LOST))
    two = shop.run("dlq", "requeue", "task:shop.mail", "--reason", "x", "--yes")
    assert two.stdout == "Requeued none: 2 left out, because they may have run already.\n"
