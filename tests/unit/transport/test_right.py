"""Which right a refusal of RabbitMQ's names, in the words of its versions."""

from __future__ import annotations

import pytest
from amqp.exceptions import AccessRefused

from celery_guardrails.errors import PublishError
from celery_guardrails.transport.right import Right, refusal, refused_right

EXCHANGE_DECLARE, EXCHANGE_BIND, QUEUE_DECLARE, QUEUE_BIND = (40, 10), (40, 30), (50, 10), (50, 20)
PUBLISH, CONSUME = (60, 40), (60, 20)


@pytest.mark.parametrize(
    ("method", "what", "kind"),
    [
        (QUEUE_DECLARE, "queue", "configure"),
        (EXCHANGE_DECLARE, "exchange", "configure"),
        (QUEUE_BIND, "queue", "write"),
        (QUEUE_BIND, "exchange", "read"),
        (EXCHANGE_BIND, "exchange", "read"),
        (PUBLISH, "exchange", "write"),
        (CONSUME, "queue", "read"),
    ],
)
def test_before_rabbitmq_named_the_right(method: tuple[int, int], what: str, kind: str) -> None:
    text = f"ACCESS_REFUSED - access to {what} 'it's mine' in vhost '/' refused for user 'app'"
    assert refused_right(AccessRefused(text, method)) == Right(kind, what, "it's mine", "/", "app")


def test_since_it_does() -> None:
    text = "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost 'v' refused for user 'app'"
    assert refused_right(AccessRefused(text, QUEUE_BIND)) == Right("write", "exchange", "amq.default", "v", "app")


def test_it_is_found_behind_an_error_of_ours() -> None:
    error = PublishError("dead", "no")
    error.__cause__ = AccessRefused("ACCESS_REFUSED - access to queue 'd' in vhost 'v' refused for user 'u'", CONSUME)
    assert refusal(error) == "RabbitMQ refuses access: the user 'u' has no right to read the queue 'd'"


@pytest.mark.parametrize(
    "error",
    [
        AccessRefused("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", (10, 10)),
        ConnectionError("gone"),
    ],
)
def test_what_names_no_right(error: Exception) -> None:
    assert refused_right(error) is None
    assert refusal(error).startswith(type(error).__name__)
