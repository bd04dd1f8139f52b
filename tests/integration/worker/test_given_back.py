"""Where neither the broker nor the spool takes a letter, the message goes back to its queue, and is not lost."""

from __future__ import annotations

import json

import celery
import pytest

from tests.guarded import Guarded
from tests.integration.worker.left import left
from tests.shared_server import SharedServer


def refuse_letters(losing: Guarded) -> dict[str, str]:
    """Have the broker refuse dead letters; returns what a worker needs for its spool to refuse them, too."""
    queue = f"{losing.prefix}.dead"
    with losing.app.connection_for_write() as connection:
        channel = connection.default_channel
        if hasattr(channel, "client"):
            channel.client.set(queue, "no list")
        else:
            channel.queue_declare(queue, durable=False, auto_delete=False)
    dead_letter = {"queue": queue, "spool_dir": "/dev/null/spool", "publish_timeout": 1}
    return {"GUARDED_SETTINGS": json.dumps({"dead_letter": dead_letter})}


def accept_letters(losing: Guarded) -> None:
    with losing.app.connection_for_write() as connection:
        channel = connection.default_channel
        if hasattr(channel, "client"):
            channel.client.delete(f"{losing.prefix}.dead")
        else:
            channel.queue_delete(f"{losing.prefix}.dead")


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_result_that_nobody_takes_is_worked_for_again(losing: Guarded, shared_redis: SharedServer, pool: str) -> None:
    nowhere = losing.harness.environment["RESULT_BACKEND"].replace(str(shared_redis.port), "1")
    worker = losing.worker("-c", "1", pool=pool, env={"RESULT_BACKEND": nowhere, **refuse_letters(losing)})
    task = losing.tasks.heard.delay(key="unstorable")
    losing.wait_for_runs("unstorable", 2, 60)
    accept_letters(losing)
    letter = losing.letter(60)
    assert (letter.task_id, letter.reason.value) == (task.id, "result_unstorable")
    worker.stop()
    assert left(losing) == 0


@pytest.mark.skipif(celery.VERSION < (5, 7), reason="before 5.7 the pool cannot be told to spawn")
def test_a_child_that_is_spawned_knows_that_it_may_give_back(losing: Guarded) -> None:
    worker = losing.worker("-c", "1", env={"POOL_START": "spawn", **refuse_letters(losing)})
    task = losing.tasks.late.delay("spawned", "bug")
    losing.wait_for_runs("spawned", 2, 60)
    accept_letters(losing)
    letter = losing.letter(60)
    assert (letter.task_id, letter.reason.value) == (task.id, "permanent_error")
    worker.stop()
    assert left(losing) == 0
