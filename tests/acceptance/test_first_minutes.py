"""The quick starts, as they are written: each block is pasted and each line is typed, on real servers.

The README has the beginning of the one on Redis: what is the same there need not run twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.conftest import Broker
from tests.document.block import blocks_of
from tests.document.command import console_lines
from tests.document.reader import Reader
from tests.harness import Harness
from tests.port import reserve_port
from tests.servers_postgres import PostgreSQLServer

REDIS = "redis://localhost:6379/0"
RABBITMQ = "amqp://guest:guest@localhost:5672//"
POSTGRESQL = "postgresql://shop@localhost/guardrails"


def paste(page: str, harness: Harness, places: Mapping[str, str], task: str = "shop.send_receipt") -> None:
    """Paste a page, and see its task fail, die and recover."""
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


def test_what_a_new_user_pastes_works(harness: Harness, redis_broker: Broker) -> None:
    paste("docs/quickstart/redis.md", harness, {REDIS: redis_broker.url})


def test_what_a_user_of_rabbitmq_pastes_works(harness: Harness, rabbitmq_broker: Broker) -> None:
    paste("docs/quickstart/rabbitmq.md", harness, {RABBITMQ: rabbitmq_broker.url})


def test_what_a_user_of_flask_pastes_works(harness: Harness, redis_broker: Broker) -> None:
    pytest.importorskip("flask")
    paste("docs/quickstart/flask.md", harness, {REDIS: redis_broker.url, "5000": str(reserve_port())})


def test_what_a_user_of_django_pastes_works(
    harness: Harness, rabbitmq_broker: Broker, postgresql_server: PostgreSQLServer
) -> None:
    places = {RABBITMQ: rabbitmq_broker.url, POSTGRESQL: postgresql_server.fresh_url()}
    paste("docs/quickstart/django.md", harness, places, "shop.tasks.send_receipt")


def test_the_readme_has_what_is_pasted_there() -> None:
    ours, theirs = list(blocks_of("README.md")), list(blocks_of("docs/quickstart/redis.md"))
    (code,) = [block.text for block in ours if block.text.startswith("# shop.py\n")]
    assert code == next(block.text for block in theirs if block.text.startswith("# shop.py\n"))
    typed = {line.split("#")[0].strip() for block in theirs for _, line in console_lines(block.text)}
    for block in ours:
        if "shop.send_receipt" in block.text and block.kind == "console":
            assert {line.split("#")[0].strip() for _, line in console_lines(block.text)} <= typed
