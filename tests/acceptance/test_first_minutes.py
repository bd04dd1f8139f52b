"""The quick starts, as they are written: each block is pasted and each line is typed, on real servers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.conftest import Broker
from tests.document.reader import Reader
from tests.harness import Harness
from tests.port import reserve_port

REDIS = "redis://localhost:6379/0"
RABBITMQ = "amqp://guest:guest@localhost:5672//"
POSTGRESQL = "postgresql://shop@localhost/guardrails"


def paste(page: str, harness: Harness, places: Mapping[str, str], task: str = "shop.send_receipt") -> None:
    """Paste a page, and see its task fail, die and recover."""
    harness.anew = page == "README.md"  # as a user's commands are
    reader = Reader(page, harness, places)
    reader.read()
    assert "1 task under guard" in reader.output("check")
    listed = reader.output("list")
    assert task in listed
    assert "the mail server does not answer" in listed
    assert "TimeoutError" in listed
    assert reader.output("requeue").strip() == "Requeued 1 dead letter. 1 recovered."
    assert [letter["state"] for letter in reader.letters()] == ["recovered"]
    codes = reader.end()
    assert codes
    assert set(codes) == {0}


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart/redis.md"])
def test_what_a_new_user_pastes_works(page: str, harness: Harness, redis_broker: Broker) -> None:
    paste(page, harness, {REDIS: redis_broker.url})


def test_what_a_user_of_rabbitmq_pastes_works(harness: Harness, rabbitmq_broker: Broker) -> None:
    paste("docs/quickstart/rabbitmq.md", harness, {RABBITMQ: rabbitmq_broker.url})


def test_what_a_user_of_flask_pastes_works(harness: Harness, redis_broker: Broker) -> None:
    pytest.importorskip("flask")
    paste("docs/quickstart/flask.md", harness, {REDIS: redis_broker.url, "5000": str(reserve_port())})


def test_what_a_user_of_django_pastes_works(harness: Harness, rabbitmq_broker: Broker, postgresql_url: str) -> None:
    places = {RABBITMQ: rabbitmq_broker.url, POSTGRESQL: postgresql_url}
    paste("docs/quickstart/django.md", harness, places, "shop.tasks.send_receipt")
