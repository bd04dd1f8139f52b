"""A task that writes through Django's ORM while its PostgreSQL restarts is retried, one that breaks a rule is not."""

from __future__ import annotations

import psycopg
import pytest
from celery import Celery

from celery_guardrails.letters.codec import decode
from celery_guardrails.transport.consumer import DeadLetterConsumer
from celery_guardrails.transport.dead_letter import declared_queue
from tests.conftest import Broker
from tests.harness import Harness
from tests.servers_postgres import PostgreSQLServer
from tests.waiting import wait_until

pytest.importorskip("django")

APP = "tests.apps.orm"


def test_an_orm_task_outlives_a_restart_of_its_database(
    harness: Harness, redis_broker: Broker, own_postgresql: PostgreSQLServer
) -> None:
    url = own_postgresql.fresh_url()
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("CREATE TABLE shop_order (id bigserial PRIMARY KEY, number integer UNIQUE)")
    harness.environment.update(BROKER_URL=redis_broker.url, ORM_DATABASE=url)
    worker = harness.worker(APP)

    def numbers() -> list[int]:
        with psycopg.connect(url) as database:
            return [row[0] for row in database.execute("SELECT number FROM shop_order ORDER BY number")]

    with Celery("orm-client", broker=redis_broker.url, set_as_current=False) as client:
        client.send_task("orm.order", [1])
        wait_until(lambda: numbers() == [1], 30, "the first is written")
        own_postgresql.stop()
        client.send_task("orm.order", [2])
        worker.wait_for_log("retry: attempt 2")
        own_postgresql.start()
        wait_until(lambda: numbers() == [1, 2], 60, "the second is written once the database is back")
        client.send_task("orm.order", [2])
        consumer = DeadLetterConsumer(client, [declared_queue("orm.dead")])
        try:
            (delivery,) = wait_until(lambda: consumer.receive(10, 0.2), 60, "a dead letter")
            letter = decode(delivery.body)
        finally:
            consumer.close()
    assert letter.explanation.startswith(
        "django.db.utils.IntegrityError is an error that another attempt would not mend (validation)"
    )
    assert len(letter.attempts) == 1
    assert numbers() == [1, 2]
