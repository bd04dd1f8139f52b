"""The queue for figures: what a worker sends a guardian receives, and nobody has to empty it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from celery_guardrails.errors import PublishError
from celery_guardrails.transport import figures
from celery_guardrails.transport.consumer import DeadLetterConsumer, waiting
from celery_guardrails.transport.figures import FiguresSender, declared_figures_queue, figures_queue
from tests.conftest import Broker
from tests.integration.transport.conftest import Line
from tests.port import reserve_port
from tests.waiting import wait_until

LETTERS = "t.dead"
QUEUE = figures_queue(LETTERS)


@pytest.fixture
def prefixed(redis_broker: Broker) -> Iterator[Line]:
    made = Line(redis_broker)
    made.app.conf.broker_transport_options = {"global_keyprefix": "shop:"}
    yield made
    made.app.close()


@pytest.fixture
def sender(line: Line) -> Iterator[FiguresSender]:
    made = FiguresSender(line.app, LETTERS, timeout=20.0)
    yield made
    made.close()


def bodies(app: Celery, count: int) -> list[bytes]:
    consumer = DeadLetterConsumer(app, [declared_figures_queue(LETTERS)])
    found: list[bytes] = []

    def has_come() -> bool:
        received = consumer.receive(100, 0.5)
        assert {each.queue for each in received} <= {QUEUE}
        found.extend(each.body for each in received)
        consumer.settle(received)
        return len(found) >= count

    wait_until(has_come, 30, f"{count} messages")
    consumer.close()
    return found


def test_a_guardian_receives_what_a_worker_sends(line: Line, sender: FiguresSender) -> None:
    assert sender.send(b'{"v":1}')
    assert sender.send(b"two")
    assert sorted(bodies(line.app, 2)) == [b"two", b'{"v":1}']
    assert waiting(line.app, [QUEUE]) == 0


def test_the_queue_keeps_the_latest_only(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MOST", 3)
    monkeypatch.setitem(figures.FIGURES_ARGUMENTS, "x-max-length", 3)
    sender = FiguresSender(line.app, LETTERS, timeout=20.0)
    for number in range(8):
        sender.send(b"%d" % number)
    wait_until(lambda: waiting(line.app, [QUEUE]) == 3, 30, "three messages left")
    assert sorted(bodies(line.app, 3)) == [b"5", b"6", b"7"]
    sender.close()


def test_the_queue_on_rabbitmq_expires(rabbitmq_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(figures.FIGURES_ARGUMENTS, "x-message-ttl", 100)
    app = Celery(broker=rabbitmq_broker.url, set_as_current=False)
    sender = FiguresSender(app, LETTERS, timeout=20.0)
    sender.send(b"old")
    wait_until(lambda: waiting(app, [QUEUE]) == 0, 30, "the message expired")
    sender.close()
    app.close()


def test_the_list_on_redis_expires(prefixed: Line) -> None:
    sender = FiguresSender(prefixed.app, LETTERS, timeout=20.0)
    sender.send(b"old")
    with prefixed.app.connection_for_read() as connection:
        from redis import Redis

        client = Redis(connection_pool=connection.default_channel.pool)
        assert 3500 < client.ttl(f"shop:{QUEUE}") <= 3600
    assert bodies(prefixed.app, 1) == [b"old"]
    sender.close()


def test_a_sender_sees_what_nobody_has_taken(line: Line, sender: FiguresSender) -> None:
    consumer = DeadLetterConsumer(line.app, [declared_figures_queue(LETTERS)])
    assert sender.backlog is None
    for _ in range(5):
        assert sender.send(b"{}")
    is_redis = line.broker.url.startswith("redis")
    found = sender.backlog
    assert found is not None
    assert found.messages == 5 if is_redis else found.messages >= 4  # RabbitMQ confirms nothing here
    assert found.consumers == (None if is_redis else 0)
    while batch := consumer.receive(50, 1.0):
        consumer.settle(batch)
    assert sender.send(b"{}")
    found = sender.backlog
    assert found is not None
    assert found.messages <= 1
    assert found.consumers == (None if is_redis else 1)
    consumer.close()


def test_a_user_of_rabbitmq_who_may_not_ask_sends_nevertheless(
    rabbitmq_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Celery(broker=rabbitmq_broker.url, set_as_current=False)
    sender = FiguresSender(app, LETTERS, timeout=20.0)
    assert sender.send(b"one")
    monkeypatch.setattr(sender._queue, "name", "t.never.made")
    sender._ask(sender._connected())
    monkeypatch.undo()
    assert not sender._asks
    assert sender.send(b"two")
    assert sender.backlog is None
    sender.close()
    wait_until(lambda: waiting(app, [QUEUE]) == 2, 30, "both messages")
    app.close()


@pytest.mark.own_servers
def test_a_user_of_redis_who_may_not_let_keys_expire_sends_nevertheless(redis_broker: Broker) -> None:
    app = Celery(broker=redis_broker.url, set_as_current=False)
    with app.connection_for_read() as connection:
        connection.default_channel.client.execute_command(
            "ACL", "SETUSER", "narrow", "on", "nopass", "~*", "&*", "+@all", "-expire"
        )
    app.conf.broker_url = redis_broker.url.replace("redis://", "redis://narrow:any@")
    sender = FiguresSender(app, LETTERS, timeout=20.0)
    assert sender.send(b"one")
    assert sender.send(b"two")
    sender.close()
    assert waiting(app, [QUEUE]) == 2
    app.close()


def test_a_broker_that_is_away_is_an_error_at_once(line: Line) -> None:
    line.app.conf.broker_url = f"{line.broker.url.partition(':')[0]}://127.0.0.1:{reserve_port()}"
    sender = FiguresSender(line.app, LETTERS)
    with pytest.raises(PublishError, match=QUEUE):
        sender.send(b"{}")
    line.app.conf.broker_url = line.broker.url
    sender = FiguresSender(line.app, LETTERS, timeout=20.0)
    assert sender.send(b"{}")
    sender.close()


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # of kombu's own tables there
def test_a_database_as_a_broker_takes_so_many_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MOST", 3)
    app = Celery(broker=f"sqla+sqlite:///{tmp_path / 'broker.sqlite3'}", set_as_current=False)
    assert figures.carries_figures(app)
    sender = FiguresSender(app, LETTERS, timeout=20.0)
    assert all(sender.send(b"%d" % number) for number in range(5))
    assert waiting(app, [QUEUE]) == 3
    assert sorted(bodies(app, 3)) == [b"0", b"1", b"2"]
    assert sender.send(b"later")
    assert bodies(app, 1) == [b"later"]
    sender.close()
    app.close()


def test_a_broker_that_cannot_bound_a_queue_gets_none() -> None:
    app = Celery(broker="memory://", set_as_current=False)
    sender = FiguresSender(app, LETTERS)
    assert not figures.carries_figures(app)
    assert not sender.send(b"{}")
    sender.close()
    app.close()
