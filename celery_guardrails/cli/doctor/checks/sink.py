"""Where alerts go: Slack, its token and its channels, the other sinks that routes name, and Sentry beside them."""

from __future__ import annotations

from collections.abc import Iterator

from celery_guardrails.alerts.sinks.build import build_sink, sink_faults, unreachable_channels
from celery_guardrails.alerts.sinks.slack import SlackSink
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, fault, fine, warning
from celery_guardrails.errors import SinkError
from celery_guardrails.text import count_of
from celery_guardrails.worker.failure.sentry import sentry_of_application

__all__ = ["heartbeat", "routes", "sentry", "slack"]

_NOT_SET = 'set slack.token and slack.channel, by GUARDRAILS_SLACK_TOKEN and "slack": {"channel": "#alerts"}'
_SCOPES = "give the bot channels:history and channels:read (groups:... for a private channel)"


def slack(context: Context) -> Iterator[Finding]:
    """Whether Slack accepts the token and has the channel."""
    settings = context.settings.slack
    sink = build_sink(settings)
    if not isinstance(sink, SlackSink):
        if settings.webhook_url is None:
            yield warning("no Slack is set: alerts go to the guardian's log", _NOT_SET)
        else:
            try_it = context.project.typed("alerts test")
            yield fine(f"alerts go to a webhook of Slack; only a post can test it: {try_it}")
        return
    try:
        sink.check()
    except SinkError as exc:
        yield fault(f"Slack does not accept the token: {exc.reason}", "correct slack.token")
        return
    routed = [route.to.channel for route in context.settings.alerts.routes]
    for channel in dict.fromkeys(each for each in (sink.channel, *routed, settings.fallback_channel) if each):
        try:
            sink.find("celery-guardrails doctor", since=context.now, channel=channel)
        except SinkError as exc:
            yield _channel(channel, exc.reason)
        else:
            yield fine(f"Slack accepts the token, and {channel} exists and can be read")


def routes(context: Context) -> Iterator[Finding]:
    """Whether the sinks that routes and `alerts.fallback` name can be made, without sending anything."""
    settings = context.settings
    wrong = sink_faults(settings)
    for each in wrong:
        yield fault(f"{each.setting}: {each.problem}", each.suggestion or "correct the setting")
    for channel in dict.fromkeys(unreachable_channels(settings)):
        words = f"alerts are routed to {channel}, but slack.token is not set: they go where all others go"
        yield fault(words, _NOT_SET)
    if settings.alerts.routes and not wrong:
        names = ", ".join(dict.fromkeys(route.to.name for route in settings.alerts.routes))
        count = count_of(len(settings.alerts.routes), "route")
        yield fine(f"{count} to {names}; what a sink does not take goes to {settings.alerts.fallback.name}")


def heartbeat(context: Context) -> Iterator[Finding]:
    """Whether a monitoring service hears of guardians."""
    if context.settings.alerts.heartbeat_url is not None:
        yield fine("guardians fetch alerts.heartbeat_url each minute while archive, broker and sinks are well")


def _channel(channel: str, reason: str) -> Finding:
    if "missing_scope" in reason:
        words = f"Slack accepts the token, but it may not read {channel}"
        return warning(f"{words}: when an answer of Slack is lost, an alert may be posted twice", _SCOPES)
    if "not_in_channel" in reason:
        return fault(f"the bot is not in {channel}", f"in Slack: /invite the bot to {channel}")
    if "channel_not_found" in reason:
        return fault(
            f"Slack accepts the token, but there is no channel {channel}", "correct slack.channel, or invite the bot"
        )
    return warning(f"Slack accepts the token, but {channel} could not be read: {reason}", "try again later")


def sentry(context: Context) -> Iterator[Finding]:
    """Whether Sentry, if the application has it, gets the errors of Celery's tasks."""
    sdk = sentry_of_application()
    if sdk is None:
        return
    if sdk.get_client().get_integration("celery") is None:
        yield warning(
            "Sentry is initialised without its Celery integration: failed tasks do not reach it",
            "add CeleryIntegration() to sentry_sdk.init(integrations=[...])",
        )
    else:
        yield fine("Sentry is initialised, with its Celery integration")
