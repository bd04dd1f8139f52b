"""`worker --purge` empties queues, and with them what waits for them, where the broker can tell what that is."""

from __future__ import annotations

from celery_guardrails.app.guardrails import Guardrails
from tests.conftest import Broker
from tests.guarded import Guarded


def test_what_waits_for_the_purged_queues_is_purged(losing: Guarded, broker: Broker) -> None:
    worker = losing.worker()
    for number in range(3):
        losing.tasks.heard.apply_async(kwargs={"key": "waiting"}, countdown=20 if number else 3)
    losing.tasks.heard.apply_async(kwargs={"key": "elsewhere"}, countdown=3600, queue=f"{losing.prefix}.other")
    worker.kill()
    worker = losing.worker("--purge")
    waiting = Guardrails.of(losing.app).waiting
    if broker.name == "rabbitmq":
        worker.wait_for_log("purge: messages that wait by")
        losing.wait_for_runs("waiting", 1)
        return
    worker.wait_for_log("purge: erased 3 messages that waited for these queues")
    assert [entry.queue for entry in waiting.entries(10)] == [f"{losing.prefix}.other"]
    losing.finish()
    assert losing.runs("waiting") == []
