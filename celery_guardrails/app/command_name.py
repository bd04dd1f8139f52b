"""How an application is named on a command line, for the commands that errors, logs and alerts show.

Owns where the name is looked up: this process's command line, then `CELERY_APP`, then the application's own name.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

import click

from celery_guardrails.command import shell_quote
from celery_guardrails.errors import UNNAMED_APP

__all__ = ["named_on_command_line", "typed_name"]


def named_on_command_line(context: click.Context | None = None) -> str | None:
    """What to write after `celery -A`, quoted: as it was typed, else as in `CELERY_APP`; `None`: neither names it.

    A typed `--workdir` is added: without it, Celery does not find the application.

    Args:
        context: of the command; `None`: of the command that runs in this thread, if any.
    """
    context = context or click.get_current_context(silent=True)
    given: dict[str, Any] = context.find_root().params if context is not None else {}
    named = given.get("app") if isinstance(given.get("app"), str) else os.environ.get("CELERY_APP")
    return f"{shell_quote(named)}{_workdir()}" if named else None


def _workdir() -> str:
    """The option to type from another directory, or `""`. Celery has changed to its directory, and does not keep it."""
    if any(word == "--workdir" or word.startswith("--workdir=") for word in sys.argv[1:]):
        with suppress(OSError):  # somebody has removed the directory
            return f" --workdir {shell_quote(os.getcwd())}"
    return ""


def typed_name(app: Any) -> str:
    """What to write after `celery -A` for an application; its own name where nothing else names it."""
    return named_on_command_line() or shell_quote(app.main or UNNAMED_APP)
