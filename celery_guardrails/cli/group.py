"""Groups of commands that import a command's module only when it is needed, and how our errors are shown.

Cheap to import. It must not know which commands there are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, cast

import click

__all__ = ["BEYOND_WORKERS", "CleanCommand", "LazyGroup", "lacking"]

BEYOND_WORKERS = frozenset(("alembic", "rich", "sentry_sdk", "slack_sdk", "sqlalchemy", "urllib3"))
"""The required modules that workers never import by themselves: an image for workers alone may lack them."""


class CleanCommand(click.Command):
    """A command whose errors carry no text that could steer the terminal."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _clean_errors():
            return super().invoke(ctx)


class LazyGroup(click.Group):
    """A group that imports a command when it is needed, and shows an error of ours as one clear message.

    Args:
        commands_at: where each command is: `package.module:attribute`.
    """

    def __init__(self, *args: Any, commands_at: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._commands_at = dict(commands_at or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order in which they were given."""
        return [*self._commands_at, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        where = self._commands_at.get(cmd_name)
        if where is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = where.partition(":")
        with _clean_errors():
            return cast(click.Command, getattr(import_module(module), attribute))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest right spelling of a wrong command."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            from celery_guardrails.errors import nearest

            near = nearest(args[0], self.list_commands(ctx)) if args else None
            if near is None or "Did you mean" in exc.message:
                raise
            raise click.UsageError(f"{exc.message} Did you mean {near!r}?", ctx) from exc

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours ends it with its message and exit code 1, a wrong query with 2."""
        from celery_guardrails.errors import GuardrailsError, QueryError

        with _clean_errors():
            try:
                return super().invoke(ctx)
            except QueryError as exc:
                raise click.UsageError(str(exc)) from exc
            except GuardrailsError as exc:
                raise click.ClickException(str(exc)) from exc


def lacking(exc: ModuleNotFoundError) -> str | None:
    """The error of a guardian or a command where only what workers need is installed; else `None`."""
    name = (exc.name or "").partition(".")[0]
    if name not in BEYOND_WORKERS:
        return None
    return (
        f"{name} is not installed here. Workers do without it, guardians and commands do not: install "
        "celery-guardrails with what it requires"
    )


@contextmanager
def _clean_errors() -> Iterator[None]:
    from celery_guardrails.printable import lines
    from celery_guardrails.redaction import shown

    if hasattr(sys.stdout, "reconfigure"):
        # a character that its encoding does not have is written as an escape, and raises nothing
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except ModuleNotFoundError as exc:
        if (lack := lacking(exc)) is None:
            raise
        raise click.ClickException(lack) from exc
    except click.ClickException as exc:
        exc.message = lines(shown(exc.message))  # type: ignore[misc] # final for its users, not for its last way out
        raise
