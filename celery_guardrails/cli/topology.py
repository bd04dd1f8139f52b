"""`guardrails topology`: what must exist on the broker, for an administrator to declare, and the rights to give.

Owns how it is shown, by one function for each kind of broker (`_BROKERS`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import click
from rich.text import Text

from celery_guardrails.app.topology import dead_letter_queues, needed_topology
from celery_guardrails.cli.output import Column, emit_json, json_option, note, printer, say, table
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.errors import ConfigurationError
from celery_guardrails.transport.address import broker_fault
from celery_guardrails.transport.declared import declared_by_celery, undeclared_line
from celery_guardrails.transport.redis.rights import needs
from celery_guardrails.transport.topology import Topology

__all__ = ["topology"]


@click.command(short_help="List what to declare on the broker, and the rights to give.")
@click.option("--definitions", is_flag=True, help="RabbitMQ: print what `rabbitmqctl import_definitions` takes.")
@json_option
@click.pass_context
def topology(ctx: click.Context, definitions: bool, as_json: bool) -> None:
    """List what must exist on the broker, and the rights that the application's user needs.

    For RabbitMQ: exchanges, queues and bindings, which an administrator declares if the application's user may not.
    --definitions prints them in the form that can be imported. For Redis: the user's rights. Connects to nothing.
    """
    project = project_of(ctx)
    if unreadable := broker_fault(project.app):
        raise ConfigurationError([unreadable])
    with project.app.connection_for_write() as connection:
        kind = str(connection.transport.driver_type)
        vhost, user = str(connection.virtual_host or "/"), connection.userid
    show = _BROKERS.get(kind)
    if show is None:
        raise click.ClickException(f"A broker of this kind ({kind}) needs nothing to be declared beforehand.")
    show(project, vhost, user, definitions, as_json)


def _rabbitmq(project: Project, vhost: str, userid: str | None, definitions: bool, as_json: bool) -> None:
    needed, user = needed_topology(project.guardrails), userid or "guest"
    lines = [undeclared_line(queue) for queue in declared_by_celery(project.app)]
    command = needed.rights.command(vhost, user)
    if definitions:
        emit_json(needed.definitions(vhost))
    elif as_json:
        emit_json({**_as_json(needed, vhost, user, command), "task_queues": lines})
    else:
        _print_needed(needed, vhost)
        say("\nTo declare it all, as an administrator:")
        say(f"  {project.typed('topology')} --definitions >topology.json")
        say("  rabbitmqctl import_definitions topology.json")
        say(f"\nThen the rights of the user {user} (they replace the rights that it has):\n  {command}")
        if lines:
            say("\nCelery declares these queues and their exchanges, too. Where the user may not")
            say("declare them, workers and producers end, even if the queues exist. For such a user,")
            say("write in the application's settings (from kombu import Exchange, Queue):\n  task_queues=[")
            for line in lines:
                say(f"      {line},")
            say("  ]")
        note(f"What the application itself declares is listed, too. {_CELERY}")


_CELERY = (
    "Celery's own result backend `rpc://` needs a queue for each process, which nobody can declare beforehand; its "
    "remote control, events and gossip need the right to configure that is in the line above, or "
    "worker_enable_remote_control=False and a worker with --without-mingle --without-gossip."
)


def _redis(project: Project, vhost: str, user: str | None, definitions: bool, as_json: bool) -> None:
    if definitions:
        raise click.UsageError("--definitions is only for RabbitMQ: on Redis nothing has to be declared.")
    prefix = str((project.app.conf.broker_transport_options or {}).get("global_keyprefix") or "")
    needed, name = needs(prefix, dead_letter_queues(project.guardrails)), user or "default"
    command = needed.command(name)
    if as_json:
        emit_json({"broker": "redis", "user": name, "rights": {**asdict(needed), "command": command}})
        return
    say("Redis: nothing has to be declared.")
    say(f"\nThe rights that the user {name} needs beside those that Celery itself needs:\n  {command}")


_BROKERS: Mapping[str, Callable[[Project, str, str | None, bool, bool], None]] = {"amqp": _rabbitmq, "redis": _redis}


def _as_json(needed: Topology, vhost: str, user: str, command: str) -> dict[str, Any]:
    return {
        "broker": "rabbitmq",
        "vhost": vhost,
        "user": user,
        "exchanges": [asdict(each) for each in needed.exchanges],
        "queues": [asdict(each) for each in needed.queues],
        "bindings": [asdict(each) for each in needed.bindings],
        "rights": {**asdict(needed.rights), "command": command},
    }


def _print_needed(needed: Topology, vhost: str) -> None:
    console = printer()
    console.print(Text(f"RabbitMQ, virtual host {vhost}; all of it durable\n"))
    table(
        console,
        [Column("Queue", "fold"), Column("Arguments", "fold")],
        [(each.name, _words(each.arguments)) for each in needed.queues],
    )
    say("")
    table(console, [Column("Exchange", "fold"), "Type"], [(each.name, each.kind) for each in needed.exchanges])
    say("")
    rows = [(each.source, f"{each.kind} {each.destination}", each.routing_key) for each in needed.bindings]
    table(console, [Column(title, "fold") for title in ("From exchange", "To", "Routing key")], rows)


def _words(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in arguments.items())
