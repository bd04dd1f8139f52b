"""Alerts as events in Sentry, by the SDK that the application itself has initialised in the guardian's process.

Sends level, environment, fingerprint (one issue a problem), the tags `guardrails.alert`, `.task`, `.reason`, `.owner`
and `.notice`, and the alert's text. It must not initialise Sentry, nor know what workers send (`worker/failure/`).
"""

from __future__ import annotations

import sys
from typing import Any

from celery_guardrails.alerts.sinks.alert import Alert
from celery_guardrails.alerts.sinks.plain import PostOnly
from celery_guardrails.alerts.sinks.sink import Message, Posted
from celery_guardrails.errors import Trouble, Undelivered

__all__ = ["SentrySink"]

_LEVELS = {"info": "info", "warning": "warning", "critical": "fatal"}
_FLUSH = 2.0
_TAG_LIMIT = 200


class SentrySink(PostOnly):
    """Capture one event an alert. Its id is the notification's, so that Sentry keeps a repeated one once."""

    name = "sentry"

    def post(self, message: Message, *, channel: str | None = None) -> Posted:
        """Hand the event to the SDK, which sends it in the background and says nothing about how that went."""
        sdk = _sdk()
        event = _event(message)
        with sdk.isolation_scope() as scope:
            scope.clear_breadcrumbs()  # they are about other problems
            taken = sdk.capture_event(event)
        if taken is None:
            raise Undelivered(Trouble.REFUSED, "Sentry's SDK dropped the event: before_send, or a sample rate")
        sdk.get_client().flush(timeout=_FLUSH)
        return Posted(message.post_uid or str(taken), self.name)

    def check(self) -> None:
        """Whether Sentry is initialised in this process."""
        _sdk()


def _sdk() -> Any:
    if "sentry_sdk" in sys.modules:
        import sentry_sdk

        if sentry_sdk.is_initialized() and sentry_sdk.get_client().options.get("dsn"):
            return sentry_sdk
    raise Undelivered(Trouble.AUTH, "the application has not initialised Sentry in this process")


def _event(message: Message) -> dict[str, Any]:
    alert = message.alert or Alert(message.post_uid, message.text, message.plain)
    title = message.plain.partition("\n")[0]
    reasons = ",".join(sorted(alert.reasons))
    tags = {
        "alert": alert.id, "task": alert.task, "reason": reasons, "owner": alert.owner, "notice": alert.notice,
    }  # fmt: skip
    event: dict[str, Any] = {
        "level": "info" if alert.notice in ("resolved", "test") else _LEVELS.get(alert.severity, "error"),
        "logger": "celery_guardrails.alerts",
        "message": title,
        "fingerprint": ["celery-guardrails", alert.id or "test"],
        "tags": {f"guardrails.{name}": value[:_TAG_LIMIT] for name, value in tags.items() if value},
        "extra": {"alert": message.plain, "letters": alert.letters, "runbook": alert.runbook},
    }
    if alert.environment:
        event["environment"] = alert.environment
    if message.post_uid:
        event["event_id"] = message.post_uid
    return event
