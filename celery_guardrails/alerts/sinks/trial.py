"""Tries each place where an alert may go, with one message each, and says what to do about those that do not take it.

Owns which places the settings name, each once, and the advice. It must not know how the answer is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from celery_guardrails.alerts.sinks.build import build_sink, further_sink
from celery_guardrails.alerts.sinks.log import LogSink
from celery_guardrails.alerts.sinks.sink import Message, Posted, Sink
from celery_guardrails.destination import Destination, Means
from celery_guardrails.errors import Fault, Trouble, Undelivered
from celery_guardrails.redaction.process import shown
from celery_guardrails.settings import Settings

__all__ = ["Spot", "Tried", "spots", "try_spots"]

_ID = re.compile("[CGD][A-Z0-9]+")
_WEBHOOK = "slack webhook"
_OWN_SINKS = "its method `send` has to return without an error"


@dataclass(frozen=True)
class Spot:
    """One place where alerts may go.

    Args:
        name: what people see in place of the destination, which may be a secret.
        destination: the place.
        settings: the keys that name it; empty for the log where no Slack is set.
    """

    name: str
    destination: Destination
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Tried:
    """What came of one place.

    `problem` is `None` where it took the message, else `fix` says what to do. `same_as` names an earlier place that is
    the same channel: this one got no message of its own. `channel` is where the message is.
    """

    spot: Spot
    channel: str | None = None
    problem: str | None = None
    fix: str | None = None
    same_as: str | None = None


def spots(settings: Settings) -> list[Spot]:
    """Every place where alerts may go: the usual one first. A place that several settings name comes once."""
    default = _default(settings)
    named: dict[str, tuple[Destination, list[str]]] = {}
    for key, given in _named(settings):
        destination = default if given.means is Means.SLACK and given.channel is None else given
        # Slack takes a channel's name with and without the #
        named.setdefault(_name(destination).lstrip("#"), (destination, []))[1].append(key)
    return [Spot(_name(where), where, tuple(filter(None, keys))) for where, keys in named.values()]


def try_spots(settings: Settings, chosen: Sequence[Spot], message: Message) -> list[Tried]:
    """Post the message once to each of these places; one that fails keeps no other from getting it.

    Args:
        settings: those that name the places.
        chosen: some of `spots(settings)`.
        message: what to post.
    """
    slack, found = build_sink(settings.slack), dict[Spot, Tried]()
    by_id: dict[str, str] = {}
    # A channel may be named, and be given by its id, too. The answer to the name has the id: so names come first.
    for spot in sorted(chosen, key=lambda each: bool(_ID.fullmatch(each.name))):
        if spot.name in by_id:
            found[spot] = Tried(spot, spot.name, same_as=by_id[spot.name])
            continue
        found[spot] = _try(settings, slack, spot, message)
        if spot.destination.channel is not None and found[spot].channel is not None:
            by_id.setdefault(found[spot].channel or "", spot.name)
    return [found[spot] for spot in chosen]


def _try(settings: Settings, slack: Sink, spot: Spot, message: Message) -> Tried:
    if spot.destination.channel is not None and settings.slack.token is None:
        usual = _name(_default(settings))
        return Tried(
            spot,
            problem=f"without slack.token nobody can post there: its alerts go to {usual}",
            fix="set slack.token and slack.channel, the token by GUARDRAILS_SLACK_TOKEN",
        )
    sink = _sink(slack, spot)
    if isinstance(sink, Fault):
        return Tried(spot, problem=sink.problem, fix=sink.suggestion or f"correct {sink.setting}")
    try:
        posted = _post(sink, spot, message)
    except Undelivered as error:
        return Tried(spot, problem=shown(error.reason), fix=_fix(settings, spot, error))
    return Tried(spot, posted.channel)


def _sink(slack: Sink, spot: Spot) -> Sink | Fault:
    if spot.destination.means is Means.SLACK:
        return slack
    return LogSink() if spot.destination.means is Means.LOG else further_sink(spot.settings[0], spot.destination)


def _post(sink: Sink, spot: Spot, message: Message) -> Posted:
    try:
        return sink.post(message, channel=spot.destination.channel)
    except Undelivered:
        raise
    except Exception as error:
        raise Undelivered(Trouble.UNCERTAIN, type(error).__name__) from error


def _default(settings: Settings) -> Destination:
    """Where an alert goes that no route takes."""
    if settings.slack.token is not None:
        return Destination(Means.SLACK, SecretStr(settings.slack.channel or ""))
    return Destination(Means.LOG if settings.slack.webhook_url is None else Means.SLACK)


def _named(settings: Settings) -> Iterator[tuple[str, Destination]]:
    """Each setting that names a place; no setting for the log where no Slack is set."""
    slack, alerts = settings.slack, settings.alerts
    default = _default(settings)
    webhook = "slack.webhook_url" if default.means is Means.SLACK else ""
    yield ("slack.channel" if default.channel else webhook), default
    for number, route in enumerate(alerts.routes):
        yield f"alerts.routes.{number}.to", route.to
    for number, step in enumerate(alerts.escalation):
        if step.channel is not None:
            yield f"alerts.escalation.{number}.channel", Destination(Means.SLACK, SecretStr(step.channel))
    if slack.fallback_channel:
        yield "slack.fallback_channel", Destination(Means.SLACK, SecretStr(slack.fallback_channel))
    yield "alerts.fallback", alerts.fallback
    if alerts.log_always:
        yield "alerts.log_always", Destination(Means.LOG)


def _name(destination: Destination) -> str:
    if destination.means is Means.SLACK and destination.channel is None:
        return _WEBHOOK
    return shown(destination.name)


def _fix(settings: Settings, spot: Spot, error: Undelivered) -> str:
    """What to do about a place that did not take the message."""
    means, key = spot.destination.means, spot.settings[0] if spot.settings else "the settings"
    if error.trouble is Trouble.RATE_LIMITED:
        return f"try again in {error.retry_after or 30:.0f} s; the guardian waits as long by itself"
    if error.trouble is Trouble.CHANNEL:
        return _channel_fix(settings, spot, error.reason, key)
    if error.trouble is Trouble.AUTH:
        return _credential_fix(settings, means, error.reason, key)
    if means is Means.OWN:
        return _OWN_SINKS
    if means is Means.SENTRY:
        return "look at before_send and the sample rate in sentry_sdk.init"
    where = "slack.base_url, slack.proxy" if means is Means.SLACK and settings.slack.token else key
    if error.trouble is Trouble.UNAVAILABLE:
        return f"see whether {where} and the network are right: nothing was sent"
    if error.trouble is Trouble.UNCERTAIN:
        return f"look there: it may have arrived; if not, see whether {where} and the network are right"
    return f"see whether {where} is right"


def _channel_fix(settings: Settings, spot: Spot, reason: str, key: str) -> str:
    if settings.slack.token is None:
        return f"make a webhook for another channel, and write its URL to {key}"
    if reason == "not_in_channel":
        return f"in Slack, invite the bot to {spot.name}: /invite @its-name"
    if "archived" in reason:
        return f"unarchive {spot.name} in Slack, or write another channel to {key}"
    return f"correct {key}, or invite the bot if {spot.name} is private"


def _credential_fix(settings: Settings, means: Means, reason: str, key: str) -> str:
    if means is Means.SENTRY:
        return "call sentry_sdk.init(...) in the module of your application"
    if means is not Means.SLACK:
        return f"correct the URL in {key}"
    if settings.slack.token is None:
        return "make a new webhook, and set slack.webhook_url to its URL"
    if reason.startswith("missing_scope"):
        return "give the bot the scope chat:write, and install it to the workspace again"
    return "correct slack.token"
