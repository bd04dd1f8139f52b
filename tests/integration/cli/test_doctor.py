"""`guardrails doctor` against real servers: every pitfall is provoked by a real set-up, and silent in a good one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.bin.base import CLIContext
from kombu import Queue
from sqlalchemy import text

from celery_guardrails import clock
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.cli import guardrails
from celery_guardrails.cli.doctor import context as doctor_context
from celery_guardrails.cli.doctor.finding import Level
from celery_guardrails.store.engine import VERSION_TABLE, open_store
from celery_guardrails.testing.slack import Mode, SlackStandIn
from celery_guardrails.transport.publisher import Envelope
from tests.conftest import Broker, run_server
from tests.integration.cli.ward import Ward
from tests.servers import RedisServer
from tests.unit.cli.conftest import runner
from tests.unit.cli.deaths import dead
from tests.waiting import wait_until


@pytest.fixture
def slack() -> Iterator[SlackStandIn]:
    with SlackStandIn() as standing_in:
        standing_in.channels["#alerts"] = "C1"
        yield standing_in


@pytest.fixture(autouse=True)
def _no_workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none can answer, do not wait a second for workers."""
    if "make_shop" not in request.fixturenames:
        monkeypatch.setattr(doctor_context, "_WORKERS_TIMEOUT", 0.1)


@pytest.fixture(scope="module")
def careless_redis() -> Iterator[RedisServer]:
    """A Redis of this file's own, whose configuration the tests change while it runs."""
    yield from run_server(RedisServer)


def slack_of(standing_in: SlackStandIn) -> dict[str, Any]:
    return {"token": "xoxb-1", "channel": "#alerts", "base_url": standing_in.base_url}


def test_a_good_set_up_is_all_well(
    broker: Broker, ward: Callable[..., Ward], slack: SlackStandIn, result_backend: str
) -> None:
    good = ward(broker.url, {"result_backend": result_backend}, slack=slack_of(slack))
    good.archive("here")
    assert good.wrong() == {}
    looked = good.look()
    assert {"broker", "persistence", "redelivery", "waiting", "dead letters", "archive", "guardian", "spool"} < {
        *looked
    }
    assert looked["broker"][0].found.startswith(("Redis ", "Valkey ", "RabbitMQ "))
    assert "1 guardian alive" in looked["guardian"][0].found
    assert "#alerts exists" in looked["alerts"][0].found
    assert "answers" in looked["results"][0].found


def test_a_broker_that_is_down_is_told_once(ward: Callable[..., Ward]) -> None:
    down = ward("redis://:secret@127.0.0.1:1/0")
    (found,) = down.wrong()["broker"]
    assert found.startswith("redis://:**@127.0.0.1:1/0 does not answer")
    assert "secret" not in found
    assert set(down.wrong()) == {"broker", "archive", "guardian", "alerts"}


@pytest.mark.parametrize(
    ("settings", "name", "words"),
    [
        ({"appendonly": "no", "save": ""}, "persistence", "neither append-only file nor snapshots"),
        ({"appendonly": "no", "save": "900 1"}, "persistence", "only snapshots (save 900 1)"),
        ({"appendonly": "yes", "appendfsync": "no"}, "persistence", "appendfsync is no"),
        ({"maxmemory-policy": "allkeys-lru", "maxmemory": "50mb"}, "eviction", "deletes whole queues"),
        ({"maxmemory-policy": "allkeys-lru", "maxmemory": "0"}, "eviction", "as soon as a maxmemory is set"),
        ({"maxmemory-policy": "volatile-ttl", "maxmemory": "50mb"}, "eviction", "deletes results and locks early"),
        ({"appendonly": "yes", "appendfsync": "always"}, None, ""),
        ({"maxmemory-policy": "volatile-ttl", "maxmemory": "0"}, None, ""),
    ],
)
def test_a_redis_that_forgets(
    careless_redis: RedisServer, ward: Callable[..., Ward], settings: dict[str, str], name: str | None, words: str
) -> None:
    good = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory": "0"}
    with redis.Redis(port=careless_redis.port) as client:
        for key, value in {**good, "maxmemory-policy": "noeviction", **settings}.items():
            client.config_set(key, value)
    wrong = ward(careless_redis.fresh_url()).wrong()
    assert {"persistence", "eviction"} & {*wrong} == ({name} if name else set())
    assert name is None or words in wrong[name][0]


def test_replicas_of_redis(careless_redis: RedisServer, ward: Callable[..., Ward]) -> None:
    for replica in run_server(RedisServer):
        with redis.Redis(port=replica.port) as client:
            client.replicaof("127.0.0.1", str(careless_redis.port))
            assert "this server is a replica" in ward(replica.url).wrong()["replication"][0]
            with redis.Redis(port=careless_redis.port) as primary:
                wait_until(lambda: primary.info("replication")["connected_slaves"], 30, "the replica is connected")
            assert "a failover loses messages" in ward(careless_redis.url).wrong()["replication"][0]
            client.replicaof("NO", "ONE")


def test_a_redis_that_does_not_tell_its_settings(careless_redis: RedisServer, ward: Callable[..., Ward]) -> None:
    with redis.Redis(port=careless_redis.port) as client:
        client.config_set("appendonly", "no")
        client.execute_command("ACL", "SETUSER", "shy", "on", ">pw", "~*", "&*", "+@all", "-config")
    shy = careless_redis.fresh_url().replace("redis://", "redis://shy:pw@")
    assert "does not say whether it takes snapshots" in ward(shy).wrong()["persistence"][0]


def test_rabbitmq_as_it_is_by_default(rabbitmq_broker: Broker, ward: Callable[..., Ward]) -> None:
    lax = ward(rabbitmq_broker.url, {"task_queues": [Queue("q", durable=False)], "task_default_delivery_mode": 1})
    lax.app.conf.task_time_limit = None
    wrong = lax.wrong()
    assert "not acknowledged within 30 min (its default)" in wrong["redelivery"][0]
    assert [("transient" in found, "not durable" in found) for found in wrong["persistence"]] == [
        (True, False), (False, True)
    ]  # fmt: skip


def test_a_dead_letter_queue_that_exists_with_other_arguments(
    rabbitmq_broker: Broker, ward: Callable[..., Ward]
) -> None:
    arguments = {"x-queue-type": "quorum"}
    other = ward(rabbitmq_broker.url, dead_letter={"queue": "ward.dead", "queue_arguments": arguments})
    with other.app.connection_for_write() as connection:
        Queue("ward.dead", routing_key="ward.dead", durable=True)(connection.default_channel).declare()
    (found,) = other.wrong()["dead letters"]
    assert found.startswith("ward.dead cannot be declared")
    assert "x-queue-type" in found


def test_dead_letters_that_wait_for_a_guardian(broker: Broker, ward: Callable[..., Ward]) -> None:
    waiting = ward(broker.url)
    guard = Guardrails.of(waiting.app)
    guard.dead_letters.send(dead(1, died_at=clock.now() - timedelta(hours=3)))
    wrong = waiting.wrong()
    assert wrong["dead letters"][0].startswith("ward.dead: 1 dead letter waits for a guardian")
    assert ("the oldest for 3 h" in wrong["dead letters"][0]) == (broker.name == "redis")
    assert "no guardian is alive, and dead letters wait for it" in wrong["guardian"][0]
    waiting.archive("here")
    assert "dead letters" not in waiting.wrong()
    guard.publisher.publish(Envelope(b"no letter", "ward.dead"))
    assert "2 dead letters wait" in waiting.look()["dead letters"][0].found
    guard.publisher.close()


def test_an_archive_that_is_not_there_or_cannot_be(redis_broker: Broker, ward: Callable[..., Ward]) -> None:
    assert "there is no archive yet" in ward(redis_broker.url).wrong()["archive"][0]
    for url, words in (
        ("sqlite:////no/such/folder/a.db", "folder"),
        ("mysql://x/y", "not supported"),
        ("postgresql://u:secret@127.0.0.1:1/x", "refused"),
    ):
        (found, *_) = ward(redis_broker.url, store={"url": url}).wrong()["archive"]
        assert words in found
        assert "secret" not in found
    assert "in this process's memory" in ward(redis_broker.url, store={"url": "sqlite://"}).wrong()["archive"][-1]


@pytest.mark.parametrize(("version", "words"), [("zzz", "newer"), (None, None)])
def test_the_schema_of_an_archive(
    redis_broker: Broker, ward: Callable[..., Ward], version: str | None, words: str | None
) -> None:
    old = ward(redis_broker.url)
    old.archive("here")
    store = open_store(old.store_url)
    with store.begin() as conn:
        if version is None:
            conn.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0001'"))
        else:
            conn.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = :new"), {"new": version})
    store.close()
    first = old.look()["archive"][0]
    if words:
        assert (first.level, words in first.found) == (Level.FAULT, True)
    else:
        assert (first.level, "its schema is older" in first.found) == (Level.OK, True)


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="no tmpfs to put an archive on")
def test_an_archive_and_a_spool_in_memory(redis_broker: Broker, ward: Callable[..., Ward]) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        url = f"sqlite:///{folder}/archive.sqlite3"
        fleeting = ward(redis_broker.url, store={"url": url}, dead_letter={"spool_dir": f"{folder}/spool"})
        wrong = fleeting.wrong()
    assert "is on tmpfs (/dev/shm): a restart of the machine empties it" in wrong["archive"][-1]
    assert "is on tmpfs" in wrong["spool"][0]


def test_guardians_of_several_machines_on_one_file(redis_broker: Broker, ward: Callable[..., Ward]) -> None:
    shared = ward(redis_broker.url)
    shared.archive("one", "two")
    assert shared.wrong()["archive"] == ["guardians of several machines write into one SQLite file: one, two"]


def test_a_guardian_that_was_seen_long_ago(redis_broker: Broker, ward: Callable[..., Ward]) -> None:
    left = ward(redis_broker.url)
    left.archive("here", ago=timedelta(hours=2))
    assert "one was last seen 2 h ago" in left.wrong()["guardian"][0]


def test_a_spool_with_entries_or_without_a_place(
    redis_broker: Broker, ward: Callable[..., Ward], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    nowhere = ward(redis_broker.url, dead_letter={"spool_dir": str(tmp_path / "file" / "spool")})
    assert "cannot be" in nowhere.wrong()["spool"][0]
    held = ward(
        redis_broker.url,
        dead_letter={"queue": "ward.dead", "spool_dir": str(tmp_path / "s"), "publish_timeout": "200ms"},
    )
    held.app.conf.broker_url = "redis://127.0.0.1:1/0"
    guard = Guardrails.of(held.app)
    guard.dispatch.publish_letter(dead(1), None, clock.now())
    held.app.conf.broker_url = redis_broker.url
    assert "1 entry waits, the oldest for" in held.wrong()["spool"][0]
    (entry,) = (tmp_path / "s").glob("*")
    (tmp_path / "s" / f"{entry.name}.unreadable").write_bytes(b"?")
    held.app.conf.guardrails = {"dead_letter": {"spool_dir": str(tmp_path / "s"), "spool_limit": 100}}
    full = ward(redis_broker.url, dead_letter={"spool_dir": str(tmp_path / "s"), "spool_limit": 100})
    assert ["set aside" in full.wrong()["spool"][0], "nearly full" in full.wrong()["spool"][1]] == [True, True]


@pytest.mark.parametrize(
    ("mode", "level", "words"),
    [
        (Mode.INVALID_AUTH, Level.FAULT, "does not accept the token: invalid_auth"),
        ("no history", Level.WARNING, "may not read #alerts"),
        ("no channel", Level.FAULT, "there is no channel #alerts"),
        ("not_in_channel", Level.FAULT, "the bot is not in #alerts"),
        (Mode.SERVER_ERROR, Level.WARNING, "could not be read"),
        (Mode.OK, Level.OK, "can be read"),
    ],
)
def test_slack(
    redis_broker: Broker, ward: Callable[..., Ward], slack: SlackStandIn, mode: Mode | str, level: Level, words: str
) -> None:
    if mode == "no history":
        slack.scopes.discard("history")
    elif mode == "no channel":
        slack.channels.clear()
    elif mode == Mode.INVALID_AUTH:
        slack.mode = mode
    else:
        slack.script("conversations.history", mode)
    (found, *_) = ward(redis_broker.url, slack=slack_of(slack)).look()["alerts"]
    assert (found.level, words in found.found) == (level, True), found
    assert slack.in_channel() == []


def test_a_webhook_is_not_asked(redis_broker: Broker, ward: Callable[..., Ward], slack: SlackStandIn) -> None:
    (found, *_) = ward(redis_broker.url, slack={"webhook_url": slack.webhook_url}).look()["alerts"]
    assert (found.level, "alerts test" in found.found, slack.in_channel()) == (Level.OK, True, [])


@pytest.mark.parametrize(
    ("backend", "words"),
    [("redis://127.0.0.1:1/0", "does not answer"), ("nosuch://x", "nosuch"), (None, None)],
)
def test_a_result_backend_that_is_down(
    redis_broker: Broker, ward: Callable[..., Ward], backend: str | None, words: str | None
) -> None:
    wrong = ward(redis_broker.url, {"result_backend": backend}).wrong()
    assert ("results" in wrong) == (words is not None)
    assert words is None or words in wrong["results"][0]


def test_workers_whose_pool_enforces_no_time_limit(
    redis_broker: Broker, ward: Callable[..., Ward], make_shop: Any
) -> None:
    shop = make_shop(redis_broker)
    worker = shop.worker(pool="threads")
    looked = ward(redis_broker.url).look()
    assert "(threads)" in looked["workers"][0].found
    assert "the threads pool enforces no time limit (w" in looked["time limits"][0].found
    assert worker.stop() == 0


def test_what_is_printed(redis_broker: Broker, ward: Callable[..., Ward]) -> None:
    one = ward(redis_broker.url)
    context = CLIContext(app=one.app, no_color=True, workdir=None)
    result = runner().invoke(guardrails, ["doctor"], obj=context)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["Check", "Found"]
    assert any(line.strip() == "-> run one beside the workers: celery -A PROJ guardian" for line in lines)
    assert "0 faults, 3 warnings" in result.stderr
    rows = json.loads(runner().invoke(guardrails, ["doctor", "--json"], obj=context).stdout)
    assert all([*row] == ["check", "level", "found", "fix", "seconds"] for row in rows)
    one.app.conf.broker_url = "redis://127.0.0.1:1/0"
    assert runner().invoke(guardrails, ["doctor"], obj=context).exit_code == 1
    assert runner().invoke(guardrails, ["doctor", "--alert"], obj=context).exit_code == 2
    assert runner().invoke(guardrails, ["doctor", "--timeout", "soon"], obj=context).exit_code == 2


def test_wrong_settings_are_faults(redis_broker: Broker, ward: Callable[..., Ward]) -> None:
    wrong = ward(redis_broker.url, enviroment="x")
    context = CLIContext(app=wrong.app, no_color=True, workdir=None)
    result = runner().invoke(guardrails, ["doctor", "--self-test"], obj=context)
    assert result.exit_code == 1
    assert "enviroment" in result.stdout
