"""One alert as plain data: what your own sink gets, and what Sentry's sink sorts by.

Owns `Alert` and its fields. Its texts are redacted, cut and without control characters. It must not know a sink.
"""
# on its own: users import it, and it must not import what a worker need not have

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

__all__ = ["Alert"]


@dataclass(frozen=True)
class Alert:
    """One alert, as a sink of your own gets it. All texts are redacted and cut, without control characters or mentions.

    Args:
        uid: names this notification: after a doubtful try it comes again with the same `uid`. Empty for a test.
        title: the alert in one line, at most 300 characters.
        text: the whole alert as lines of plain text, about 9,000 characters at most.
        id: eight characters that name the problem to people, the same in each of its alerts. Empty for a test.
        notice: why it is sent: `opened`, `worse_total`, `resolved` and so on.
        task: the task's name.
        environment: the setting `environment` of the workers.
        severity: `info`, `warning`, `error` or `critical`.
        owner: the owner that the task's policy names, or `None`.
        runbook: the runbook that the task's policy names, or `None`.
        letters: how many dead letters the problem has.
        reasons: how many letters died of each reason.
        first_at: when the first of them died, aware UTC; `None` for a test.
        last_at: when the last of them died, aware UTC; `None` for a test.
    """

    uid: str
    title: str
    text: str
    id: str = ""
    notice: str = "test"
    task: str = ""
    environment: str = ""
    severity: str = "error"
    owner: str | None = None
    runbook: str | None = None
    letters: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    first_at: datetime | None = None
    last_at: datetime | None = None
