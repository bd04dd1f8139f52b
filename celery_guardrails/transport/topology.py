"""What an application under guard needs on RabbitMQ: exchanges, queues, bindings, and a user's rights.

Owns the list, but writes none of it by hand: the code that declares runs on a channel that only notes its requests. An
administrator declares the noted queues and exchanges for a user who may not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from celery import Celery
from kombu import Exchange, Queue
from kombu.transport.native_delayed_delivery import declare_native_delayed_delivery_exchanges_and_queues
from kombu.transport.pyamqp import Channel as AMQPChannel

from celery_guardrails.command import shell_quote
from celery_guardrails.letters.record import SELF_TEST
from celery_guardrails.transport.figures import declared_figures_queue, figures_queue
from celery_guardrails.transport.routing import DELAY_EXCHANGE
from celery_guardrails.transport.started import mark_prefix
from celery_guardrails.transport.waiting.level import LEVELS, binding_key, reaches

__all__ = ["BindingNeed", "ExchangeNeed", "QueueNeed", "Rights", "Topology", "level_kind", "topology_of"]


@dataclass(frozen=True, slots=True)
class QueueNeed:
    """A queue with the arguments of its declaration."""

    name: str
    durable: bool
    auto_delete: bool
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ExchangeNeed(QueueNeed):
    """An exchange: the fields of a queue and a `kind`, which is `direct`, `topic`, `fanout` or `headers`."""

    kind: str


@dataclass(frozen=True, slots=True)
class BindingNeed:
    """A binding from the exchange `source` to a queue or an exchange; `kind` is `queue` or `exchange`."""

    source: str
    destination: str
    kind: str
    routing_key: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rights:
    """A user's rights on a virtual host, as RabbitMQ's three regular expressions."""

    configure: str
    write: str
    read: str

    def command(self, vhost: str, user: str) -> str:
        """The shell command that gives these rights. It replaces all rights that the user has on the virtual host."""
        words = (vhost, user, self.configure, self.write, self.read)
        vhost, user, configure, write, read = (shell_quote(word) for word in words)
        return f"rabbitmqctl set_permissions -p {vhost} {user} {configure} {write} {read}"


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything that must be declared.

    `letters` are the dead-letter queues and those for recoveries. `marks` is the dead-letter queue whose name begins
    the names of the marks. `figures` is the queue for what workers count.
    """

    exchanges: tuple[ExchangeNeed, ...]
    queues: tuple[QueueNeed, ...]
    bindings: tuple[BindingNeed, ...]
    letters: tuple[str, ...]
    marks: str
    rights: Rights
    figures: str

    def definitions(self, vhost: str) -> dict[str, Any]:
        """The definitions for `rabbitmqctl import_definitions`. They change nothing that exists already."""
        queues = [
            {"name": q.name, "vhost": vhost, "durable": q.durable, "auto_delete": q.auto_delete,
             "arguments": dict(q.arguments)}
            for q in self.queues
        ]  # fmt: skip
        exchanges = [
            {"name": e.name, "vhost": vhost, "type": e.kind, "durable": e.durable, "auto_delete": e.auto_delete,
             "internal": False, "arguments": dict(e.arguments)}
            for e in self.exchanges
        ]  # fmt: skip
        bindings = [
            {"source": b.source, "vhost": vhost, "destination": b.destination, "destination_type": b.kind,
             "routing_key": b.routing_key, "arguments": dict(b.arguments)}
            for b in self.bindings
        ]  # fmt: skip
        return {"queues": queues, "exchanges": exchanges, "bindings": bindings}


def topology_of(app: Celery, letters: Sequence[str], arguments: Mapping[str, Any], marks: str) -> Topology:
    """What an application declares on RabbitMQ.

    Args:
        app: the application.
        letters: its dead-letter queues and those for recoveries.
        arguments: the queue arguments of `letters`.
        marks: the application's own dead-letter queue: its name begins the names of the marks of suspects, and of the
            queue for figures.
    """
    noted = _Noted()
    for name in letters:
        noted.queue_declare(name, durable=True, arguments=dict(arguments))
    figures = declared_figures_queue(marks)
    noted.queue_declare(figures.name, durable=True, arguments=dict(figures.queue_arguments))
    kind = level_kind(app)
    declare_native_delayed_delivery_exchanges_and_queues(SimpleNamespace(channel=lambda: noted), kind)
    work = [queue for queue in app.amqp.queues.values() if not (queue.exclusive or queue.auto_delete)]
    for queue in work:
        _declarable(queue)(noted).declare()
        if reaches(app, queue):
            noted.queue_bind(queue.name, DELAY_EXCHANGE, binding_key(queue.name))
    exchanges, queues = tuple(noted.exchanges.values()), tuple(noted.queues.values())
    rights = _rights(app, letters, marks, [queue.name for queue in work], [each.name for each in exchanges])
    bindings = tuple(dict.fromkeys(noted.bindings))
    return Topology(exchanges, queues, bindings, tuple(letters), marks, rights, figures.name)


def level_kind(app: Celery) -> str:
    """The queue type of the delay levels, as configured: `quorum` or `classic`."""
    kind = app.conf.get("broker_native_delayed_delivery_queue_type")
    return kind if kind in ("classic", "quorum") else "quorum"


def _declarable(queue: Queue) -> Queue:
    """The queue without its `no_declare`: here it is only listed."""
    listed = copy(queue)
    listed.no_declare, listed.exchange = False, _open(queue.exchange)
    listed.bindings = {_bound(each) for each in queue.bindings or ()}
    return listed


def _open(exchange: Exchange | None) -> Exchange | None:
    if exchange is not None:
        exchange = copy(exchange)
        exchange.no_declare = False
    return exchange


def _bound(each: Any) -> Any:
    each = copy(each)
    each.exchange = _open(each.exchange)
    return each


@dataclass(slots=True)
class _Noted:
    """A channel that only notes what it is asked to declare."""

    exchanges: dict[str, ExchangeNeed] = field(default_factory=dict)
    queues: dict[str, QueueNeed] = field(default_factory=dict)
    bindings: list[BindingNeed] = field(default_factory=list)
    prepare_queue_arguments = AMQPChannel.prepare_queue_arguments

    def exchange_declare(
        self, exchange: str, type: str, durable: bool = True, auto_delete: bool = False, **options: Any
    ) -> None:
        arguments = _Frozen(options.get("arguments") or {})
        if not options.get("passive"):
            self.exchanges.setdefault(exchange, ExchangeNeed(exchange, durable, auto_delete, arguments, type))

    def queue_declare(self, queue: str, durable: bool = True, auto_delete: bool = False, **options: Any) -> None:
        arguments = _Frozen(options.get("arguments") or {})
        if not options.get("passive"):
            self.queues.setdefault(queue, QueueNeed(queue, durable, auto_delete, arguments))

    def queue_bind(self, queue: str, exchange: str, routing_key: str = "", **options: Any) -> None:
        arguments = _Frozen(options.get("arguments") or {})
        self.bindings.append(BindingNeed(exchange, queue, "queue", routing_key or "", arguments))

    def exchange_bind(self, destination: str, source: str = "", routing_key: str = "", **options: Any) -> None:
        arguments = _Frozen(options.get("arguments") or {})
        self.bindings.append(BindingNeed(source, destination, "exchange", routing_key or "", arguments))


class _Frozen(dict[str, Any]):
    """Arguments that nobody changes, with a hash, so that the bindings that hold them can be compared."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(sorted(self.items(), key=repr)))


def _rights(app: Celery, letters: Sequence[str], marks: str, work: Iterable[str], exchanges: Iterable[str]) -> Rights:
    """The rights that a user needs once an administrator has declared everything.

    Marks of suspects and the queue of a self-test exist for a moment, under names of their own; so do the queues of
    Celery's remote control, events and gossip.
    """
    levels = [r"celery_delayed_[0-9]+"]
    names = [re.escape(name) for name in work]
    canary, theirs = rf"{re.escape(SELF_TEST)}\..+", []
    if app.conf.worker_enable_remote_control:
        control, prefix = re.escape(app.conf.control_exchange), re.escape(app.conf.event_queue_prefix)
        events = re.escape(app.conf.event_exchange)
        theirs = [rf"(.+\.)?(reply\.)?{control}\.pidbox", f"{prefix}\\..+", events]
    own = [re.escape(name) for name in exchanges if name not in LEVELS]
    ours = [re.escape(name) for name in (*letters, figures_queue(marks))]
    return Rights(
        configure=_pattern([f"{re.escape(mark_prefix(marks))}.+", canary, *theirs]),
        write=_pattern([r"amq\.default", *levels, *own, *names, canary, *theirs]),
        read=_pattern([*ours, *levels, *own, *names, canary, *theirs]),
    )


def _pattern(alternatives: Iterable[str]) -> str:
    return f"^({'|'.join(dict.fromkeys(alternatives))})$"
