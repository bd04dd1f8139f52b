"""Who decides something on the command line, and why: a name and a reason, as the audit trail and letters keep them."""

from __future__ import annotations

import getpass
import socket

import click

from celery_guardrails.redaction.process import shown

__all__ = ["given_reason", "whoever_runs_this"]


def whoever_runs_this() -> str:
    """`user@host` of this process: the name of whoever gives no other name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def given_reason(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """The callback of a required `--reason`: stripped, never blank, and without secrets, because many will read it."""
    if not value.strip():
        raise click.BadParameter("must not be blank: it goes into the audit trail.")
    return shown(value.strip())
