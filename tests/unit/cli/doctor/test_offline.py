"""The pitfalls that show without a connection: each is provoked, and silent in a good set-up."""

from __future__ import annotations

from typing import Any

import pytest
from kombu import Exchange, Queue

from celery_guardrails import Constant
from celery_guardrails.cli.doctor.checks import broker, cloud, rabbitmq, redis, waiting, worker
from celery_guardrails.cli.doctor.checks.time_limit import named
from celery_guardrails.cli.doctor.finding import Check, Level, found_by
from tests.unit.cli.conftest import Shop
from tests.unit.cli.doctor.conftest import Offline, bad

LIMITED = {"task_time_limit": 300, "worker_prefetch_multiplier": 1}


def only(context: Any) -> tuple[str, str, str]:
    """The one thing that is warned of: check, what was found, fix."""
    ((name, finding),) = bad(context)
    return name, finding.found, finding.fix


@pytest.mark.parametrize("transport", ["redis", "amqp"])
def test_a_good_set_up_is_silent(offline: Offline, transport: str) -> None:
    assert bad(offline(transport, plain={}, **LIMITED)) == []


def test_late_acknowledgement_without_a_time_limit_on_rabbitmq(offline: Offline) -> None:
    name, found, fix = only(offline("amqp", worker_prefetch_multiplier=1))
    assert (name, "within 30 min" in found, "shop.mail has no time limit" in found) == ("redelivery", True, True)
    assert "consumer_timeout" in fix


def test_a_time_limit_longer_than_the_consumer_timeout(offline: Offline) -> None:
    _, found, _ = only(offline("amqp", task_time_limit=3600, worker_prefetch_multiplier=1))
    assert "shop.mail may run longer" in found


def test_levels_of_classic_queues_drop_what_they_cannot_hand_on(offline: Offline) -> None:
    name, found, _ = only(offline("amqp", broker_native_delayed_delivery_queue_type="classic", **LIMITED))
    assert (name, "drops what is due while its queue is missing" in found) == ("waiting", True)


@pytest.mark.parametrize("multiplier", [4, 0])
def test_prefetched_tasks_wait_too(offline: Offline, multiplier: int) -> None:
    _, found, fix = only(offline("amqp", task_time_limit=600, worker_prefetch_multiplier=multiplier))
    assert "may wait longer in a worker" in found
    assert fix == "set worker_prefetch_multiplier = 1"


def test_queues_that_set_their_own_consumer_timeout(offline: Offline) -> None:
    queues = [Queue("shop", queue_arguments={"x-consumer-timeout": 7_200_000})]
    conf = {"task_queues": queues, "worker_prefetch_multiplier": 1}
    assert bad(offline("amqp", task_time_limit=3600, **conf)) == []
    assert "within 2 h (of its queues)" in only(offline("amqp", **conf))[1]


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"task_default_delivery_mode": 1}, "messages are transient"),
        ({"task_queues": [Queue("q", Exchange("e", delivery_mode=1))]}, "messages of q are transient"),
        ({"task_queues": [Queue("q", durable=False)]}, "q is not durable"),
        ({"task_queues": [Queue("q", auto_delete=True)]}, "q is not durable"),
        ({"task_queues": [Queue("q", queue_arguments={"x-message-ttl": 1})]}, "q has x-message-ttl"),
        ({"task_queues": [Queue("q", queue_arguments={"x-max-length": 9})]}, "q has x-max-length: a full queue"),
        ({"guardrails": {"dead_letter": {"queue_arguments": {"x-expires": 9}}}}, "celery.dead_letter has x-expires"),
    ],
)  # fmt: skip
def test_queues_and_messages_that_do_not_last_on_rabbitmq(offline: Offline, conf: Any, words: str) -> None:
    assert words in only(offline("amqp", **LIMITED, **conf))[1]


@pytest.mark.parametrize(
    "arguments",
    [{"x-max-length": 9, "x-overflow": "reject-publish"}, {"x-message-ttl": 1, "x-dead-letter-exchange": "dlx"}],
)
def test_queue_limits_by_which_nothing_is_dropped(offline: Offline, arguments: Any) -> None:
    assert bad(offline("amqp", **LIMITED, task_queues=[Queue("q", queue_arguments=arguments)])) == []


def test_the_visibility_timeout_matters_only_where_guardrails_is_off(offline: Offline) -> None:
    plain = {"acks_late": True, "default_retry_delay": 7200}
    assert bad(offline("redis", plain=plain)) == []
    found = [f.found for _, f in bad(offline("redis", plain=plain, guardrails={"enabled": False}))]
    assert len(found) == 2
    assert "visibility_timeout is 1 h" in found[0]
    assert "shop.plain has longer retry delays" in found[0]
    assert "shop.plain, acknowledged late, may run longer" in found[1]
    backoff = {"retry_backoff": True, "retry_backoff_max": 600}
    options = {"visibility_timeout": 300}
    context = offline("redis", plain=backoff, guardrails={"enabled": False}, broker_transport_options=options)
    assert "above 10 min" in only(context)[2]
    (calm,) = redis.visibility_timeout(offline("redis", guardrails={"enabled": False}))
    assert calm.level is Level.OK


@pytest.mark.parametrize(
    ("transport", "options", "words"),
    [
        ("gcpubsub", {}, "Pub/Sub deletes messages after 1 d"),
        ("sqs", {}, "SQS deletes messages after 4 d"),
        ("gcpubsub", {"expiration_seconds": 604_800}, None),
        ("sqs", {"sqs-creation-attributes": {"MessageRetentionPeriod": "1209600"}}, None),
        ("pgmq", {}, None),
    ],
)
def test_how_long_a_rented_broker_keeps_messages(
    offline: Offline, transport: str, options: Any, words: str | None
) -> None:
    found = list(cloud.retention(offline(transport, broker_transport_options=options)))
    if words is None:
        assert all(finding.level is Level.OK for finding in found)
    else:
        assert found[0].found.startswith(words)


def test_how_long_a_worker_may_hold_a_message_of_sqs(offline: Offline) -> None:
    (found,) = cloud.hold(offline("sqs"))
    assert "visibility_timeout is 30 min: shop.mail" in found.found
    assert list(cloud.hold(offline("sqs", task_time_limit=600))) == []


def test_brokers_on_which_retries_wait_in_workers(offline: Offline) -> None:
    (found,) = waiting.way(offline("filesystem"))
    assert (found.level, "retries wait by eta" in found.found) == (Level.WARNING, True)
    assert list(waiting.way(offline("memory"))) == []


def test_a_limit_on_eta_tasks_blocks_the_queue_of_plain_ones(offline: Offline) -> None:
    assert list(waiting.eta_limit(offline("redis", worker_eta_task_limit=50))) == []
    (found,) = waiting.eta_limit(offline("redis", worker_eta_task_limit=50, plain={}))
    assert "behind 50 plain tasks with an eta" in found.found


@pytest.mark.parametrize(
    ("transport", "level"), [("memory", Level.FAULT), ("filesystem", Level.WARNING), ("sqlalchemy", Level.WARNING)]
)
def test_brokers_that_lose_messages(offline: Offline, transport: str, level: Level) -> None:
    (found,) = broker.kind(offline(transport))
    assert found.level is level
    assert list(broker.kind(offline("redis"))) == []


@pytest.mark.parametrize(
    ("pool", "mail", "warned"),
    [
        ("threads", {"time_limit": 9}, True),
        ("solo", {"soft_time_limit": 9}, True),
        ("gevent", {"soft_time_limit": 9}, True),
        ("gevent", {"time_limit": 9}, False),
        ("threads", {}, False),
        ("prefork", {"time_limit": 9}, False),
    ],
)
def test_time_limits_that_a_pool_does_not_enforce(offline: Offline, pool: str, mail: Any, warned: bool) -> None:
    found = list(worker.time_limits(offline("redis", worker_pool=pool, mail=mail)))
    assert [f"the {pool} pool enforces no" in finding.found for finding in found] == [True] * warned


@pytest.mark.parametrize(
    ("transport", "conf", "mail", "warned"),
    [
        ("amqp", {"worker_pool": "solo", "broker_heartbeat": 2}, {"time_limit": 9}, True),
        ("amqp", {"worker_pool": "solo", "broker_heartbeat": 2}, {}, True),
        ("amqp", {"worker_pool": "solo", "broker_heartbeat": 10}, {"time_limit": 9}, False),
        ("amqp", {"worker_pool": "solo", "broker_heartbeat": 0}, {}, False),
        ("amqp", {"worker_pool": "prefork", "broker_heartbeat": 2}, {"time_limit": 9}, False),
        ("redis", {"worker_pool": "solo", "broker_heartbeat": 2}, {"time_limit": 9}, False),
    ],
)
def test_heartbeats_that_a_solo_worker_misses(
    offline: Offline, transport: str, conf: Any, mail: Any, warned: bool
) -> None:
    found = [finding.found for finding in worker.heartbeat(offline(transport, mail=mail, **conf))]
    assert ["sends no heartbeat" in text and "shop.mail" in text for text in found] == [True] * warned


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"task_acks_on_failure_or_timeout": False}, ["acks_on_timeout is off", "acks_on_failure is off"]),
        ({"task_reject_on_worker_lost": True}, ["reject_on_worker_lost is on"]),
        ({}, []),
    ],
)
def test_acknowledgement_of_tasks_that_nobody_guards(offline: Offline, conf: Any, words: list[str]) -> None:
    found = [finding.found for finding in worker.acknowledgement(offline("redis", plain={"acks_late": True}, **conf))]
    assert [word in text for word, text in zip(words, found, strict=True)] == [True] * len(words)
    assert all("shop.plain" in text and "shop.mail" not in text for text in found)
    off = worker.acknowledgement(offline("redis", mail={"acks_late": True}, guardrails={"enabled": False}, **conf))
    assert len(list(off)) == len(words)


def test_an_adopted_task_is_acknowledged_as_its_worker_does_it(offline: Offline) -> None:
    """It came under guard before Celery bound it for the second time, and had then Celery's default."""
    assert list(worker.shutdown(offline("redis", plain={}, guardrails={"guard": ["shop.*"]}))) == []
    context = offline("redis", plain={"acks_late": False}, guardrails={"guard": ["shop.*"]})
    (found,) = worker.shutdown(context)
    assert "shop.plain" in found.found


def test_a_cold_shutdown_of_tasks_that_are_acknowledged_early(offline: Offline) -> None:
    (found,) = worker.shutdown(offline("redis", plain={}))
    assert "loses a running task" in found.found
    assert "shop.plain" in found.found
    (found,) = worker.shutdown(offline("redis", guardrails={"policy": {"acks": "early"}}))
    assert "stops and dead-letters a running task" in found.found
    (found,) = worker.shutdown(offline("redis", plain={}, worker_soft_shutdown_timeout=10))
    assert (found.level, "waits 10 s" in found.found) == (Level.OK, True)
    assert list(worker.shutdown(offline("redis", plain={"time_limit": 5}, worker_soft_shutdown_timeout=10))) == []


def test_settings_that_are_wrong_or_switch_guardrails_off(offline: Offline) -> None:
    context = offline("redis", task_protocol=1, task_always_eager=True, guardrails={"enabled": False})
    levels = [(finding.level, finding.found.split()[0]) for finding in worker.settings(context)]
    assert levels == [(Level.FAULT, "task_protocol"), (Level.WARNING, "enabled"), (Level.WARNING, "task_always_eager")]


def test_a_check_that_fails_ends_no_other(offline: Offline) -> None:
    def broken(_: Any) -> list[Any]:
        raise OSError("odd server")

    (found,) = found_by(Check("odd", broken), offline("redis"))
    assert (found.level, found.found) == (Level.WARNING, "could not be checked: OSError: odd server")


def test_a_transport_whose_client_is_missing_is_unknown(offline: Offline) -> None:
    context = offline("redis")
    del context.__dict__["transport"]
    context.app.conf.broker_url = "nosuchtransport://"
    assert context.transport == "unknown"
    assert list(rabbitmq.consumer_timeout(context)) == []


def test_a_few_tasks_are_named(offline: Offline) -> None:
    context = offline("redis", plain={})
    assert named(context.tasks) == "shop.mail, shop.plain"
    assert named([*context.tasks, *context.tasks]) == "shop.mail, shop.plain and 2 more"


def test_check_warns_of_them_too(shop: Shop) -> None:
    shop.app.conf.worker_pool = "threads"
    shop.app.conf.task_time_limit = 9
    result = shop.run("check")
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: time limits: the threads pool enforces no time limit (worker_pool)")
    assert "Fix: use the prefork pool" in result.stderr


def declared(**policy: Any) -> dict[str, Any]:
    return {"policies": {"shop.mail": policy}}


@pytest.mark.parametrize(
    "policy",
    [
        {"severity": "critical", "idempotency": {}},
        {"severity": "critical", "acks": "early", "max_attempts": 1},
        {"severity": "error"},
        {"idempotency": {"ttl": "1h"}, "backoff": Constant("10m"), "max_attempts": 3},
    ],
)
def test_work_that_runs_twice_or_once_as_it_may(offline: Offline, policy: dict[str, Any]) -> None:
    assert bad(offline("redis", guardrails=declared(**policy), **LIMITED)) == []


def test_critical_work_that_may_run_twice_is_a_notice(offline: Offline) -> None:
    ((name, finding),) = bad(offline("redis", guardrails=declared(severity="critical"), **LIMITED))
    assert (name, finding.level) == ("running twice", Level.NOTICE)
    assert finding.found.startswith("critical and acknowledged late: shop.mail.")
    assert "declare idempotency=" in finding.fix


def test_keys_that_end_before_the_retries_do(offline: Offline) -> None:
    policy = {"idempotency": {"ttl": "1h"}, "max_attempts": None, "deadline": "5h"}
    ((name, finding),) = bad(offline("redis", guardrails=declared(**policy), **LIMITED))
    assert (name, finding.level) == ("running twice", Level.WARNING)
    assert "shop.mail: its retries may take 5 h, but its idempotency keys are kept for 1 h" in finding.found
    assert finding.fix.startswith('set ttl="5h" or longer')
