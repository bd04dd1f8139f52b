"""Which sink the settings ask for: Slack with a token, a Slack webhook, or the log."""

from __future__ import annotations

from celery_guardrails.alerts.sinks.log import LogSink
from celery_guardrails.alerts.sinks.sink import Sink
from celery_guardrails.alerts.sinks.slack import SlackSink, SlackWebhookSink
from celery_guardrails.settings import SlackSettings

__all__ = ["build_sink"]


def build_sink(slack: SlackSettings) -> Sink:
    """The sink for these settings; the log when no Slack is set. No connection is made."""
    timeout = slack.timeout.total_seconds()
    if slack.token is not None:
        # The API's methods are joined to it as they are.
        base_url = slack.base_url.rstrip("/") + "/" if slack.base_url else None
        return SlackSink(
            slack.token.get_secret_value(),
            slack.channel or "",
            base_url=base_url,
            proxy=slack.proxy or None,
            timeout=timeout,
        )
    if slack.webhook_url is not None:
        return SlackWebhookSink(slack.webhook_url.get_secret_value(), proxy=slack.proxy or None, timeout=timeout)
    return LogSink()
