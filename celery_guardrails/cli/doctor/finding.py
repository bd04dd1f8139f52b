"""What a check finds, and the one shape that every check has.

    Check(name, run, offline)      run(context) -> findings; none: it does not apply here

Owns the shape, that nothing which a server says brings a secret into it, and that a check which fails itself ends
neither the others nor the command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from celery_guardrails.cli.doctor.context import BrokerAway, Context, StoreAway
from celery_guardrails.redaction.process import shown
from celery_guardrails.transport.right import refusal

__all__ = ["Check", "Finding", "Level", "fault", "fine", "found_by", "warning"]


class Level(str, Enum):
    """How bad it is: `fault` loses work or keeps guardrails from doing what it is for, `warning` may."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found, each in one line; `fix` is empty where nothing is to be done."""

    level: Level
    found: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    `name` is what it looks at, in a word or two; `run` gives its findings; `offline` ones connect to nothing, so that
    `guardrails check` makes them too.
    """

    name: str
    run: Callable[[Context], Iterable[Finding]]
    offline: bool = False


def fine(found: str) -> Finding:
    """It is as it should be."""
    return Finding(Level.OK, shown(found))


def warning(found: str, fix: str) -> Finding:
    """It works, until something happens."""
    return Finding(Level.WARNING, shown(found), shown(fix))


def fault(found: str, fix: str) -> Finding:
    """It loses work, or does not work."""
    return Finding(Level.FAULT, shown(found), shown(fix))


def found_by(check: Check, context: Context) -> list[Finding]:
    """The check's findings; what needs a broker or an archive that does not answer says nothing of its own."""
    try:
        return list(check.run(context))
    except (BrokerAway, StoreAway):
        return []  # said by the check of the broker, or of the archive
    except Exception as exc:  # noqa: BLE001 a check meets every kind of broken server
        reason = refusal(exc)
        return [warning(f"could not be checked: {reason}", "see whether this user may ask the server, and report it")]
