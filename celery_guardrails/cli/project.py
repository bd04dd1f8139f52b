"""The application that a command is about: its guardrails, its archive, its name on the command line.

Owns the way from a click context to those. It must not know any command.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import click
from celery import Celery
from click.core import ParameterSource

from celery_guardrails.app.command_name import named_on_command_line
from celery_guardrails.command import celery_command
from celery_guardrails.errors import UNNAMED_APP
from celery_guardrails.settings import Settings
from celery_guardrails.task import Guardrails
from celery_guardrails.transport.publisher import Publisher

if TYPE_CHECKING:
    from celery_guardrails.store.engine import Store

__all__ = ["Project", "project_of"]


class Project:
    """One application, with what commands need of it.

    Args:
        app: the application.
        name: what was typed after `celery -A`, for the commands that are shown.
    """

    def __init__(self, app: Celery, name: str = UNNAMED_APP) -> None:
        self.app = app
        self.name = name

    @cached_property
    def guardrails(self) -> Guardrails:
        """The application's guardrails, with all its task modules imported."""
        self.app.loader.import_default_modules()
        self.app.finalize(auto=True)
        return Guardrails.of(self.app)

    @property
    def settings(self) -> Settings:
        """The application's settings.

        Raises:
            ConfigurationError: they are wrong.
        """
        return Guardrails.of(self.app).settings

    @cached_property
    def publisher(self) -> Publisher:
        """Confirmed publishing to the application's broker."""
        return self.guardrails.publisher

    @cached_property
    def archive(self) -> Store:
        """The archive, which must exist: commands that read do not create it.

        Raises:
            StoreError: there is none yet, or it cannot be opened.
        """
        from celery_guardrails.store.engine import open_store

        return open_store(self.settings.store.url, create=False, app=self.name).ready()

    def close(self) -> None:
        """Close what this command opened: the archive, and the connections on which it published."""
        if "archive" in self.__dict__:
            self.archive.close()
        if "publisher" in self.__dict__:
            self.publisher.close()
        if "guardrails" in self.__dict__:
            waiting: Any = vars(self.guardrails).get("waiting")
            if hasattr(waiting, "close"):
                waiting.close()

    def typed(self, command: str, *words: str, tail: str = "") -> str:
        """A command as a person types it: `typed("dlq show", "4f1c")` is `celery -A shop guardrails dlq show 4f1c`.

        Args:
            command: our own words, which are not quoted.
            words: arguments, each of which is quoted.
            tail: what follows, our own words.
        """
        return celery_command(self.name, f"guardrails {command}", *words, tail=tail)

    def typed_again(self, ctx: click.Context, *more: str) -> str:
        """The command of this context as it was typed, with all its options, and these words added."""
        return celery_command(self.name, ctx.command_path.removeprefix("celery "), *_words_of(ctx), *more)


def _words_of(ctx: click.Context) -> list[str]:
    """The arguments and options of this command that were typed; a reason as it is kept, without secrets."""
    words: list[str] = []
    for param in ctx.command.params:
        name = param.name or ""
        if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE or name not in ctx.params:
            continue
        value = ctx.params[name]
        if isinstance(param, click.Argument):
            words += map(str, value) if isinstance(value, tuple) else [str(value)]
        else:
            option = max(param.opts, key=len)
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            words += [option] if getattr(param, "is_flag", False) else [option, shown]
    return words


def project_of(ctx: click.Context) -> Project:
    """The project that this command line names; it is closed when the command ends.

    Raises:
        click.UsageError: the command line names no application.
    """
    given: Any = ctx.find_root().params.get("app", ctx.obj.app)
    if given is None:
        words = ctx.command_path.removeprefix("celery ")
        raise click.UsageError(f"Name the application: {celery_command(UNNAMED_APP, words, *_words_of(ctx))}", ctx)
    project = Project(ctx.obj.app, named_on_command_line(ctx) or UNNAMED_APP)
    ctx.call_on_close(project.close)
    return project
