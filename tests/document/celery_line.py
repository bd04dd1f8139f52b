"""One `celery ...` line, read by Celery's own parser, with guardrails' commands in it.

Nothing is run: no application is imported, and no broker is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import click
from celery import Celery
from celery.bin.base import CLIContext
from celery.bin.celery import celery

from celery_guardrails import clock
from celery_guardrails.errors import QueryError
from celery_guardrails.recovery.query import parse_query

__all__ = ["faults", "option_faults"]

PLACEHOLDER = "proj"
"""What `celery -A` may name everywhere."""
_NAME = re.compile(r"[A-Za-z_][\w.]*(:\w+)?")


def faults(words: Sequence[str], apps: frozenset[str] = frozenset()) -> Iterator[str]:
    """What is wrong with the words after `celery`.

    Args:
        words: as a shell hands them over.
        apps: the modules that `-A` may name, beside `proj`; with none given it may name any.
    """
    try:
        contexts = list(_contexts(words))
    except click.UsageError as error:
        yield error.format_message()
        return
    except click.exceptions.Exit:
        return  # --help and --version end there
    named = contexts[0].params["app"]
    if named is not None and not _NAME.fullmatch(named):
        yield f"-A {named} is no module's name"
    elif named is not None and apps and named.partition(":")[0].split(".")[0] not in {*apps, PLACEHOLDER}:
        yield f"-A {named} is none of the page's modules {', '.join(sorted(apps))}, nor {PLACEHOLDER}"
    if isinstance(contexts[-1].command, click.Group) and not contexts[-1].command.invoke_without_command:
        yield "a sub-command is missing"
    yield from _query_faults(contexts[-1])


def _contexts(words: Sequence[str]) -> Iterator[click.Context]:
    """The parsed commands, from `celery` itself to the innermost sub-command."""
    command, rest, parent = celery, list(words), None
    app = Celery("documentation", set_as_current=False)
    obj = CLIContext(app=app, no_color=True, workdir=None)
    name = "celery"
    while True:
        if not rest and isinstance(command, click.Group) and parent is not None:
            raise click.UsageError(f"{name} needs a sub-command")
        parent = command.make_context(name, rest, parent=parent, obj=obj)
        yield parent
        left = [*parent._protected_args, *parent.args]
        if not isinstance(command, click.Group) or not left:
            return
        resolved, inner, rest = command.resolve_command(parent, left)
        if inner is None or resolved is None:
            raise click.UsageError(f"there is no command {left[0]}")
        name, command = resolved, inner


def _query_faults(context: click.Context) -> Iterator[str]:
    """Terms of a query are read as the command reads them."""
    for parameter in context.command.params:
        words = context.params.get(parameter.name or "")
        if isinstance(parameter, click.Argument) and isinstance(words, tuple) and any(":" in word for word in words):
            try:
                parse_query(" ".join(words), clock.now())
            except QueryError as error:
                yield str(error)


def option_faults(words: Sequence[str]) -> Iterator[str]:
    """What is wrong with a command that is only named, such as `dlq restore` or `doctor --strict`.

    Its options have to exist; what it needs besides may be missing.
    """
    context = click.Context(celery, obj=None)
    command: click.Command = celery
    rest = list(words)
    while rest and isinstance(command, click.Group) and not rest[0].startswith("-"):
        inner = command.get_command(context, rest[0])
        if inner is None:
            yield f"there is no command {rest[0]}"
            return
        command, rest = inner, rest[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        option = word.partition("=")[0]
        if re.fullmatch(r"--?[a-z][\w-]*", option) and option not in {*known, "--help", "-h"}:
            yield f"{command.name} has no option {option}"
