"""What the program has for people to see, derived from the program: its commands, and the classes that take alerts."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module

import click

import celery_guardrails.alerts.sinks as sinks
from celery_guardrails.cli import guardian, guardrails

__all__ = ["commands", "sink_classes"]


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
