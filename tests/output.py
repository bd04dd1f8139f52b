"""Every output that people see, named in one place, and what the program has, derived from the program.

`tests/unit/test_output.py` compares the two; `tests/integration/test_secrets.py` looks at each, with secrets around it.
Whoever adds a command, a sink, a table or a logger names it here: a command with what it is given, so that it shows
something.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module

import click

import celery_guardrails.alerts.sinks as sinks
from celery_guardrails import log
from celery_guardrails.cli import guardian, guardrails

__all__ = ["COMMANDS", "OTHERS", "OUTPUTS", "WHOLE", "commands", "sink_classes"]


# What each command is given. A word in braces is an id, another one each time that the command runs.
COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "guardian": (("--once",), ("--check",)),
    "guardrails status": ((), ("--json",)),
    "guardrails check": ((),),
    "guardrails policy": ((), ("telltale.fail",), ("telltale.fial",)),
    "guardrails dlq list": ((), ("--limit", "3"), ("text:password",)),
    "guardrails dlq show": (("{every}",),),
    "guardrails dlq groups": ((), ("--by", "error")),
    "guardrails dlq stats": ((),),
    "guardrails dlq discard": (("{dead}", "--reason", "{reason}"),),
    "guardrails dlq restore": (("{discarded}", "--reason", "{reason}"),),
    "guardrails dlq requeue": (("{dead}", "--reason", "{reason}", "--yes"),),
    "guardrails dlq prune": (("--dry-run",), ("--yes",)),
    "guardrails retries list": ((),),
    "guardrails retries run-now": (("{waiting}",),),
    "guardrails retries cancel": (("{waiting}", "--reason", "{reason}"),),
    "guardrails alerts list": ((),),
    "guardrails alerts show": (("{alert}",),),
    "guardrails alerts ack": (("{alert}", "--reason", "{reason}", "--by", "{reason}"),),
    "guardrails alerts unack": (("{alert}", "--reason", "{reason}"),),
    "guardrails alerts silence": (("telltale.*", "--for", "1h", "--reason", "{reason}", "--by", "{reason}"),),
    "guardrails alerts silences": ((),),
    "guardrails alerts unsilence": (("{silence}", "--reason", "{reason}"),),
    "guardrails alerts simulate": ((), ("--days", "400")),
    "guardrails alerts test": ((), ("--sink", "slack")),
    "guardrails idempotency show": (("{key}",),),
    "guardrails idempotency forget": (("{key}", "--reason", "{reason}", "--by", "{reason}"),),
    "guardrails audit list": ((), ("--action", "requeue")),
    "guardrails doctor": ((),),
    "guardrails topology": ((),),
    "guardrails migrate": ((),),
}
SINKS = {"SlackSink", "SlackWebhookSink", "LogSink", "MemorySink", "AppriseSink", "OwnSink", "SentrySink"}
TABLES = {
    "guardrails_alert_event", "guardrails_alert_group", "guardrails_alert_outbox", "guardrails_audit",
    "guardrails_audit_cut", "guardrails_claim", "guardrails_dead_letter", "guardrails_death", "guardrails_expected",
    "guardrails_figure", "guardrails_figure_beside", "guardrails_figure_death", "guardrails_figure_letter",
    "guardrails_figure_summary", "guardrails_figure_task", "guardrails_guardian", "guardrails_lease",
    "guardrails_ledger", "guardrails_letter_argument", "guardrails_silence",
}  # fmt: skip
# Every column of every table is read raw, except these: here the work is kept whole, to be run again.
WHOLE = {("guardrails_death", "payload")}
OTHERS = {
    "worker log",
    "guardian log",
    "guardian log of a command",
    "Sentry",
    "result of parked work",
    "names of files",
    "celery report",
    "metrics",
    "OpenTelemetry",
}
OUTPUTS = {
    *(f"command {name}" for name in COMMANDS),
    *(f"sink {name}" for name in SINKS),
    *(f"table {name}" for name in TABLES),
    *(f"logger {name}" for name in log.LOGGERS),
    *OTHERS,
}


def commands() -> Iterator[str]:
    """Every command that does something, by the words that are typed."""
    yield from _leaves("guardian", guardian)
    yield from _leaves("guardrails", guardrails)


def _leaves(name: str, command: click.Command) -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield name
        return
    with click.Context(command) as ctx:
        for inner in command.list_commands(ctx):
            found = command.get_command(ctx, inner)
            assert found is not None
            yield from _leaves(f"{name} {inner}", found)


def sink_classes() -> set[str]:
    """Every class that takes alerts."""
    found = set()
    for module in pkgutil.iter_modules(sinks.__path__, f"{sinks.__name__}."):
        for name, value in vars(import_module(module.name)).items():
            if inspect.isclass(value) and value.__module__ == module.name and hasattr(value, "post"):
                found.add(name)
    return found - {"Sink"}
