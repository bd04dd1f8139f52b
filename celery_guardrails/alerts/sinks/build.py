"""Makes the sinks that the settings ask for, and says what is wrong with those that cannot be made.

A class of the user's own is imported here and nowhere else. It must not know how alerts are delivered.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import cast

from celery_guardrails.alerts.sinks.apprise import AppriseSink
from celery_guardrails.alerts.sinks.log import LogSink
from celery_guardrails.alerts.sinks.own import OwnSink, Sends
from celery_guardrails.alerts.sinks.sentry import SentrySink
from celery_guardrails.alerts.sinks.several import Sinks
from celery_guardrails.alerts.sinks.sink import Sink
from celery_guardrails.alerts.sinks.slack import SlackSink, SlackWebhookSink
from celery_guardrails.destination import Destination, Means
from celery_guardrails.errors import ConfigurationError, Fault
from celery_guardrails.policy.faults import HIDDEN
from celery_guardrails.redaction.process import shown
from celery_guardrails.settings import AlertSettings, Settings, SlackSettings
from celery_guardrails.text import cut, one_line

__all__ = ["build_sink", "build_sinks", "further_sink", "sink_faults", "unreachable_channels"]

_APPRISE = 'pip install "celery-guardrails[apprise]"'


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


def build_sinks(settings: Settings) -> Sinks:
    """Every sink that the settings name. No connection is made.

    Raises:
        ConfigurationError: a sink cannot be made; with a fault for each.
    """
    further, found = _further(settings.alerts)
    if found:
        raise ConfigurationError(found)
    alerts = settings.alerts
    return Sinks(build_sink(settings.slack), further, routes=alerts.routes, fallback=alerts.fallback)


def sink_faults(settings: Settings) -> list[Fault]:
    """Why sinks that the settings name cannot be made; none of them quotes a URL."""
    return _further(settings.alerts)[1]


def unreachable_channels(settings: Settings) -> list[str]:
    """Channels of Slack that routes name, where no bot's token is set: their alerts go where all others go."""
    if settings.slack.token is not None:
        return []
    return [to.channel for _, to in _named(settings.alerts) if to.channel is not None]


def _named(alerts: AlertSettings) -> Iterator[tuple[str, Destination]]:
    for number, route in enumerate(alerts.routes):
        yield f"alerts.routes.{number}.to", route.to
    yield "alerts.fallback", alerts.fallback


def _further(alerts: AlertSettings) -> tuple[list[Sink], list[Fault]]:
    made: dict[Destination, Sink] = {}
    found = []
    for key, destination in _named(alerts):
        if destination in made or destination.means in (Means.SLACK, Means.LOG):
            continue
        sink = further_sink(key, destination)
        if isinstance(sink, Fault):
            found.append(sink)
        else:
            made[destination] = sink
    return list(made.values()), found


def further_sink(key: str, destination: Destination) -> Sink | Fault:
    """The sink of a destination that is neither Slack nor the log, or why it cannot be made.

    Args:
        key: the setting that names it, for the fault.
        destination: the place.
    """
    try:
        return _make(destination)
    except Exception as exc:  # noqa: BLE001 a user's class may raise anything
        return _fault(key, destination, exc)


def _make(destination: Destination) -> Sink:
    text = destination.text.get_secret_value()
    if destination.means is Means.SENTRY:
        return SentrySink()
    if destination.means is Means.APPRISE:
        return AppriseSink(destination.name, text)
    module, _, name = text.rpartition(".")
    target = getattr(import_module(module), name)()
    if not callable(getattr(target, "send", None)):
        raise TypeError(f"{name} has no method `send(self, alert)`")
    return OwnSink(text, cast("Sends", target))


def _fault(key: str, destination: Destination, exc: Exception) -> Fault:
    if destination.means is Means.APPRISE:
        missing = isinstance(exc, ImportError)
        words = "apprise is not installed" if missing else "apprise does not know this URL"
        return Fault(key, HIDDEN, words, suggestion=_APPRISE if missing else "see apprise's list of services")
    words = cut(one_line(shown(f"{type(exc).__name__}: {exc}")), 200)
    return Fault(key, repr(destination.name), f"cannot be used: {words}", suggestion=None)
