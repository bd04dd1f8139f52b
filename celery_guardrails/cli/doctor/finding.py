"""What a check finds, and the one shape that every check has.

    Check(name, run, offline)      run(context) -> findings; an empty list: the check does not apply here

Owns this shape. A finding never shows a secret, whatever a server answers; and a check that fails ends neither the
other checks nor the command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from celery_guardrails.cli.doctor.context import BrokerAway, Context, StoreAway
from celery_guardrails.redaction.process import shown
from celery_guardrails.transport.right import refusal

__all__ = ["Check", "Finding", "Level", "fault", "fine", "found_by", "notice", "warning"]


class Level(str, Enum):
    """How bad it is.

    `fault`: work is lost, or guardrails does not work; `warning`: that may happen; `notice`: it works as declared, and
    somebody has to know that this is meant.
    """

    OK = "ok"
    NOTICE = "notice"
    WARNING = "warning"
    FAULT = "fault"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found, and its fix, in one line each; `fix` is empty where nothing has to be done."""

    level: Level
    found: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    `name` is what it looks at, in a word or two; `run` gives its findings. An `offline` check connects to nothing, so
    `guardrails check` runs it, too.
    """

    name: str
    run: Callable[[Context], Iterable[Finding]]
    offline: bool = False


def fine(found: str) -> Finding:
    """It is as it should be."""
    return Finding(Level.OK, shown(found))


def notice(found: str, fix: str) -> Finding:
    """It works as declared: somebody has to know that this is meant."""
    return Finding(Level.NOTICE, shown(found), shown(fix))


def warning(found: str, fix: str) -> Finding:
    """It works, until something happens."""
    return Finding(Level.WARNING, shown(found), shown(fix))


def fault(found: str, fix: str) -> Finding:
    """It loses work, or does not work."""
    return Finding(Level.FAULT, shown(found), shown(fix))


def found_by(check: Check, context: Context) -> list[Finding]:
    """Run a check. It finds nothing where the broker or the archive that it needs does not answer."""
    try:
        return list(check.run(context))
    except (BrokerAway, StoreAway):
        return []  # the check of the broker, or of the archive, reports it
    except Exception as exc:  # noqa: BLE001 a check meets every kind of broken server
        reason = refusal(exc)
        return [
            warning(
                f"could not be checked: {reason}",
                "see whether this user may ask the server for this; if so, report a defect of celery-guardrails",
            )
        ]
