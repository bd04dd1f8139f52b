"""What you test your own tasks and alerts with: stand-ins for Slack and Sentry that need no network."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_guardrails.testing.sentry import SentryStandIn
    from celery_guardrails.testing.slack import Mode, SlackMessage, SlackStandIn

__all__ = ["Mode", "SentryStandIn", "SlackMessage", "SlackStandIn"]

_HOMES = {"SentryStandIn": "sentry", "Mode": "slack", "SlackMessage": "slack", "SlackStandIn": "slack"}


def __getattr__(name: str) -> Any:
    # Imported when asked for: `python -m celery_guardrails.testing.slack` must not find itself imported already.
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
