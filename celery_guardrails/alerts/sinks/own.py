"""A sink that a user wrote: a class with one method, `send(alert)`.

Owns how it is called: in a thread, for a bounded time, and whatever it raises becomes `Undelivered`. It must not know
how its class is found.
"""
# on its own: a sink is a file

from __future__ import annotations

from typing import Protocol

from celery_guardrails.alerts.sinks.alert import Alert
from celery_guardrails.alerts.sinks.bounded import Bounded
from celery_guardrails.alerts.sinks.plain import PostOnly
from celery_guardrails.alerts.sinks.sink import Message, Posted
from celery_guardrails.errors import SinkError, Trouble, Undelivered
from celery_guardrails.redaction.process import shown
from celery_guardrails.text import cut, one_line

__all__ = ["OwnSink", "Sends"]

_SECONDS = 30.0


class Sends(Protocol):
    """What a sink of your own has to have."""

    def send(self, alert: Alert) -> object:
        """Deliver the alert, or raise. What it returns is ignored."""


class OwnSink(PostOnly):
    """Hands alerts to an object of the user's.

    An error that it raises leaves open whether the alert arrived: it is sent again later, with the same `uid`. A
    `SinkError` that is not retryable says that it will never be taken.

    Args:
        name: the dotted path of its class.
        target: has `send`.
        seconds: how long one call may take. Default 30.
    """

    def __init__(self, name: str, target: Sends, *, seconds: float = _SECONDS) -> None:
        self.name = name
        self._target = target
        self._bounded = Bounded(seconds)

    def post(self, message: Message, *, channel: str | None = None) -> Posted:
        """Call `send`."""
        alert = message.alert or Alert(message.post_uid, message.text, message.plain)
        try:
            self._bounded(lambda: self._target.send(alert))
        except Undelivered:
            raise
        except SinkError as error:
            trouble = Trouble.UNCERTAIN if error.retryable else Trouble.REFUSED
            raise Undelivered(trouble, _words(error), error.retry_after) from error
        except Exception as error:
            raise Undelivered(Trouble.UNCERTAIN, _words(error)) from error
        except BaseException as error:  # such as `sys.exit()`: a sink must not end the guardian
            raise Undelivered(Trouble.UNCERTAIN, type(error).__name__) from error
        return Posted(message.post_uid, self.name)


def _words(error: Exception) -> str:
    try:
        text = cut(one_line(shown(str(error))), 200)
    except Exception:  # noqa: BLE001 an error about something odd may be odd itself
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
