"""Half a surrogate pair, which JSON can write and UTF-8 cannot, in what names work: it ends in the books."""

from __future__ import annotations

from typing import Any

import pytest

from celery_guardrails.letters.codec import encode
from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness
from tests.published import publish, task_message

HALF = "\ud800"


@pytest.fixture
def losing(broker: Broker, harness: Harness, result_backend: str) -> Guarded:
    harness.environment.update(VISIBILITY_TIMEOUT="2")
    return Guarded(harness, broker.url, result_backend, {}, "losing")


def messages(losing: Guarded) -> dict[str, Any]:
    """Messages that end as a letter, by what is odd about them."""
    names = losing.tasks

    def failing(task: Any, key: str, how: str = "bug", **headers: Any) -> Any:
        return task_message(task.name, (key, how), **headers)

    odd = f"id-{HALF}"
    return {
        "id": failing(names.late, "id", id=f"{odd}-1"),
        "early": failing(names.early, "early", id=f"{odd}-2"),
        "killed": failing(names.early, "killed", "kill_child", id=f"{odd}-3"),
        "limited": failing(names.limited, "limited", "hang", id=f"{odd}-4"),
        "retried": failing(names.raw_retry, "retried", "when", id=f"{odd}-5"),
        "family": failing(names.late, "family", root_id=HALF, parent_id=f"p{HALF}", group=f"g{HALF}"),
        "header": failing(
            names.late, "header", guardrails={"v": 1, "work": HALF, "history": [{"error": HALF, "ended_at": 1.0}]}
        ),
        "reply": failing(names.late, "reply", origin=HALF, argsrepr=HALF, shadow=f"s{HALF}"),
        "unknown": task_message(f"gone.{HALF}", (), id=f"{odd}-6"),
        "shape": task_message(names.late.name, (), id=f"{odd}-7", retries="x"),
    }


def test_whatever_half_a_pair_is_in_there_is_a_letter(losing: Guarded) -> None:
    worker = losing.worker("-c", "1")
    sent = messages(losing)
    publish(losing.app, f"{losing.prefix}.tasks", sent.values())
    letters = losing.letters(len(sent))
    for letter in letters:
        encode(letter).decode()
    assert len({letter.id for letter in letters}) == len(sent)
    losing.no_more_letters(len(sent))
    assert worker.is_running
    assert "gets no dead letter" not in worker.log()
    assert "Logging error" not in worker.log()
    assert "guardrails failed" not in worker.log()
