"""From where on each signal opens an alert: what the settings say for every task, and a policy for its own.

Owns the thresholds' fields and their defaults. It must not know how a signal is found.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from celery_guardrails.policy.field import DurationField, NamesField

__all__ = [
    "DeadLetterThreshold",
    "ErrorRateThreshold",
    "FailedAttemptsThreshold",
    "OverdueThreshold",
    "QueueLatencyThreshold",
    "Section",
    "Thresholds",
    "ThroughputThreshold",
    "UnreconciledThreshold",
]


class Section(BaseModel):
    """A dict of the settings: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)


class DeadLetterThreshold(Section):
    """When a task's dead letters are an alert.

    Args:
        count: so many dead letters. Default 1.
        within: within this time. Default 5 minutes.
    """

    count: Annotated[int, Field(ge=1, strict=True)] = 1
    within: DurationField = timedelta(minutes=5)


class UnreconciledThreshold(Section):
    """When a dead letter that a worker counted is missing.

    Args:
        after: the archive does not have it after this time. Default 10 minutes.
    """

    after: DurationField = timedelta(minutes=10)


class FailedAttemptsThreshold(Section):
    """When failing attempts of a task are an alert, even if their retries succeed.

    Args:
        enabled: whether they are at all. Default false.
        count: so many failed attempts. Default 20.
        within: within this time; at least a minute. Default 5 minutes.
        ratio: and this share of all attempts, 0 to 1. Default 0.5.
    """

    enabled: bool = False
    count: Annotated[int, Field(ge=1)] = 20
    within: DurationField = timedelta(minutes=5)
    ratio: Annotated[float, Field(ge=0, le=1)] = 0.5


class ErrorRateThreshold(Section):
    """When a task fails much more often than usual.

    Args:
        ratio: at least this share of its attempts fails, 0 to 1. Default 0.1.
        times: and so many times the share of the 24 hours before. Default 3.
        within: both in this time and in the last hour. Default 5 minutes.
        least: with so many attempts in the last hour. Default 20.
    """

    ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    times: Annotated[float, Field(ge=1)] = 3.0
    within: DurationField = timedelta(minutes=5)
    least: Annotated[int, Field(ge=1)] = 20


class QueueLatencyThreshold(Section):
    """When a task begins later than its policy's `max_latency` allows.

    Args:
        evaluations: at so many looks in a row, a minute apart. Default 2.
    """

    evaluations: Annotated[int, Field(ge=1)] = 2


class ThroughputThreshold(Section):
    """When much less is done of a task than usually at this time of the day.

    Args:
        ratio: less than this share of the median of the last 7 days, in half an hour, 0 to 1. Default 0.5.
        least: where the median is at least so many attempts. Default 20.
    """

    ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    least: Annotated[int, Field(ge=1)] = 20


class OverdueThreshold(Section):
    """When a task that should have run is overdue.

    Args:
        grace: so long after it was due. Default 2 minutes.
        ratio: or this share of the time between two runs, 0 to 1, where that is longer. Default 0.1.
        ignore: entries of the beat schedule that nobody expects; `*` stands for anything. Default none.
    """

    grace: DurationField = timedelta(minutes=2)
    ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    ignore: NamesField = ()


class Thresholds(Section):
    """From where on each signal opens an alert.

    Args:
        dead_letter: dead letters of one task.
        failed_attempts: attempts that fail, even if their retries succeed.
        error_rate: failures that are more frequent than usual.
        queue_latency: starts that are late.
        throughput: work that is less than usual.
        overdue: tasks that should have run, by the beat schedule or by a policy's `expect_every`.
        unreconciled: dead letters that workers counted, and that the archive does not have.
    """

    dead_letter: DeadLetterThreshold = Field(default_factory=DeadLetterThreshold)
    failed_attempts: FailedAttemptsThreshold = Field(default_factory=FailedAttemptsThreshold)
    error_rate: ErrorRateThreshold = Field(default_factory=ErrorRateThreshold)
    queue_latency: QueueLatencyThreshold = Field(default_factory=QueueLatencyThreshold)
    throughput: ThroughputThreshold = Field(default_factory=ThroughputThreshold)
    overdue: OverdueThreshold = Field(default_factory=OverdueThreshold)
    unreconciled: UnreconciledThreshold = Field(default_factory=UnreconciledThreshold)
