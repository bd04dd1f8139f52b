"""The sinks of one guardian: every one that the settings name, by name, and which of them an alert goes to.

Owns `Sinks` and `Place`. It must not know how a sink is made (build), nor how an alert is delivered (outbox).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from celery_guardrails.alerts.route import destination_of
from celery_guardrails.alerts.sinks.log import LogSink
from celery_guardrails.alerts.sinks.sink import Sink
from celery_guardrails.destination import Destination, Means
from celery_guardrails.settings import RouteSettings

__all__ = ["LOG", "Place", "Sinks"]


@dataclass(frozen=True)
class Place:
    """A sink by its name, and a channel in it; `None`: the sink's own."""

    sink: str
    channel: str | None = None


LOG = Place(LogSink.name)


class Sinks:
    """The sinks by name, and the places that the settings name.

    Args:
        default: where an alert goes that no route matches.
        further: the other sinks. The log is always among them.
        routes: the setting `alerts.routes`.
        fallback: where an alert goes that its own sink does not take.
    """

    def __init__(
        self,
        default: Sink,
        further: Iterable[Sink] = (),
        *,
        routes: Sequence[RouteSettings] = (),
        fallback: Destination = Destination(Means.LOG),  # noqa: B008 - frozen
    ) -> None:
        self.default = default
        self._routes = routes
        self.by_name = {sink.name: sink for sink in (LogSink(), *further, default)}
        self.fallback = self.place_of(fallback)

    @property
    def can_edit(self) -> bool:
        """Whether any of them can edit; for a sink that cannot, the poster leaves the edits out."""
        return any(sink.can_edit for sink in self.by_name.values())

    def route(self, *, task: str, owner: str | None, severity: str) -> Place:
        """Where the alerts of a problem go."""
        found = destination_of(self._routes, task=task, owner=owner, severity=severity)
        return Place(self.default.name) if found is None else self.place_of(found)

    def channel(self, name: str) -> Place:
        """A channel of Slack. Without a bot's token it is the default sink: it cannot choose a channel."""
        return self.place_of(Destination(Means.SLACK, SecretStr(name)))

    def place_of(self, destination: Destination) -> Place:
        """The sink and channel of a destination. A channel needs a bot's token: without one it is the default sink."""
        if destination.means is Means.SLACK:
            return Place(self.default.name, destination.channel if self.default.can_edit else None)
        return Place(destination.name)
