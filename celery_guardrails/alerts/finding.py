"""From what is true now to what has changed: findings of a signal become conditions that begin, change, or end.

Pure. The alert groups themselves say what was known, so that a guardian that starts anew, or another one, ends what an
earlier one began. It must not know how a finding is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from celery_guardrails.alerts.condition import SIGNALS, Condition, condition_name, parts_of
from celery_guardrails.alerts.group import AlertGroup, Holding

__all__ = ["Finding", "Scope", "changes"]

_WORDS_AGAIN = timedelta(minutes=5)
"""How long a condition's words stay before newer ones replace them: figures in them change all the time."""


@dataclass(frozen=True)
class Finding:
    """Something that a signal finds true now; the fields are those of `Condition`."""

    signal: str
    environment: str
    task: str
    summary: str
    subject: str = ""
    severity: str = ""
    owner: str | None = None
    runbook: str | None = None
    queue: str = ""

    @property
    def name(self) -> str:
        """The condition's name in its group."""
        return condition_name(self.signal, self.subject)


@dataclass(frozen=True)
class Scope:
    """What a source of findings can speak of: whatever holds within it, and is not found any more, has ended.

    Attributes:
        signal: the signal.
        environment: the environment.
        subject: only this subject; `None`: every one.
        tasks: only these tasks; `None`: every one.
        gone: tasks that no application has any more: what holds for them has ended, too.
    """

    signal: str
    environment: str
    subject: str | None = None
    tasks: frozenset[str] | None = None
    gone: frozenset[str] = frozenset()

    def has(self, group: AlertGroup, name: str) -> bool:
        """Whether this condition of a group is one of those."""
        signal, subject = parts_of(name)
        return (
            signal == self.signal
            and group.environment == self.environment
            and (self.subject is None or subject == self.subject)
            and (self.tasks is None or group.task in self.tasks or group.task in self.gone)
        )


def changes(findings: Sequence[Finding], known: Iterable[AlertGroup], scope: Scope, now: datetime) -> list[Condition]:
    """The conditions that begin, have other words, or end.

    Args:
        findings: all that is true now within the scope.
        known: the groups as they are stored.
        scope: what the findings speak of.
        now: this instant.
    """
    held = dict(_held(known, scope.has))
    found = {(finding.task, finding.name): finding for finding in findings}
    begun = [
        _condition(finding, now, holds=True)
        for key, finding in found.items()
        if key not in held or _is_old(held[key], finding, now)
    ]
    ended = [
        _condition(Finding(scope.signal, scope.environment, task, words, parts_of(name)[1]), now, holds=False)
        for task, name in held
        if (task, name) not in found
        for words in [f"{task} is not in the application of any guardian any more" if task in scope.gone else ""]
    ]
    return begun + ended


def _held(
    known: Iterable[AlertGroup], has: Callable[[AlertGroup, str], bool]
) -> Iterator[tuple[tuple[str, str], Holding]]:
    for group in known:
        for name, holding in group.conditions.items():
            if holding.holds and has(group, name):
                yield (group.task, name), holding


def _is_old(holding: Holding, finding: Finding, now: datetime) -> bool:
    return holding.summary != finding.summary and now - holding.at >= _WORDS_AGAIN


def _condition(finding: Finding, now: datetime, *, holds: bool) -> Condition:
    # Several guardians may find the same at about the same time: within a minute it counts once.
    parts = (finding.environment, finding.task, finding.name, str(holds), str(int(now.timestamp() // 60)))
    return Condition(
        ref_id=sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:32],
        signal=finding.signal,
        environment=finding.environment,
        task=finding.task,
        at=now,
        holds=holds,
        summary=finding.summary,
        subject=finding.subject,
        severity=finding.severity or SIGNALS[finding.signal],
        owner=finding.owner,
        runbook=finding.runbook,
        queue=finding.queue,
    )
