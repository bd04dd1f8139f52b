"""What one task declares: the `Policy` table, validated once at construction.

Owns the fields, their defaults and the faults of a wrong field. `field.py` reads a field, `decision.py` decides by it
after a failure. It must not know Celery.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from celery_guardrails.clock import Duration
from celery_guardrails.errors import Fault
from celery_guardrails.policy import backoff as backoffs
from celery_guardrails.policy import faults, field
from celery_guardrails.policy.alert import AlertField, TaskAlerts
from celery_guardrails.policy.backoff import Backoff
from celery_guardrails.policy.field import Acks, Jitter, Matcher, OnExhausted, OnExpired, Severity
from celery_guardrails.policy.idempotency import Idempotency, IdempotencyField

__all__ = ["Policy"]


class Policy(BaseModel):
    """What should happen when a task fails. Frozen; a field that is left out comes from a weaker declaration.

    Args:
        retry_on: the errors that are tried again: exception classes, dotted paths (which need not be importable) or
            predicates `exc -> bool`. `None` is the built-in taxonomy, which retries only what it can name as
            transient: timeouts, connections, rate limits, 5xx, locks. An error that it cannot name counts as the error
            that it was raised from (`raise ... from`). Default `None`.
        give_up_on: the errors that are never tried again, written likewise. Where an error's class matches both,
            through two of its base classes, the nearer base class wins; where both match the same class,
            `give_up_on` wins. Default none.
        max_attempts: how often the task is executed in all (Celery's `max_retries=4` is 5); `None`: only `deadline`
            bounds it. Default 5.
        deadline: time from the first publish to the start of the last attempt; a retry that would start later is not
            scheduled. For work that was sent with a `countdown` or an `eta`, the time counts from when it was due;
            for requeued work, from the requeue. `None`: no deadline. Default 2 hours.
        backoff: the delay before jitter: `Exponential`, `Constant`, `Linear`, `Schedule(["5s", "15s", "1m"])`, a
            callable `(attempt, failure) -> seconds`, or any tenacity wait.
            Default `Exponential("5s", factor=3, cap="5m")`.
        backoff_for: a backoff of its own per exception class, dotted path or category, such as
            `{"rate_limit": Constant("1m")}`. Default none.
        jitter: how far a delay is moved at random. A ratio of 0.25 makes 2 minutes anything from 1:30 to 2:30.
            Default 0.25.
        respect_retry_after: whether a server's `Retry-After`, or `TransientError(retry_after=60)`, is the least delay.
            Default true.
        on_exhausted: with `"fail"` the last error is raised: state FAILURE, errbacks run. With `"park"` the state is
            DEAD_LETTERED, so that a later requeue can still complete its chord. Default `"fail"`.
        max_crashes: after how many deaths of its worker the task is dead-lettered as `worker_lost`. Each death is an
            attempt, too. Replaces Celery's `reject_on_worker_lost`. Default 3.
        dead_letter_queue: a queue of its own for this task's dead letters. `None`: the queue of the settings.
            Default `None`.
        on_expired: what becomes of a task that is past its `expires`: a dead letter, or with `"drop"` nothing, as in
            Celery. Default `"dead_letter"`.
        acks: `"late"` runs at least once. `"early"` runs at most once, and keeps the work on the worker's disk while
            it runs. Where the application sets `task_acks_late=False`, or `acks_late=False` in `task_annotations`,
            the task is acknowledged early, whatever a policy says. Default `"late"`.
        owner: whom the alert names. Default none.
        runbook: where the alert says that people find what to do. Default none.
        severity: how bad a dead letter of this task is. Default `"error"`.
        alert: thresholds of its own by signal, such as `{"dead_letter": {"count": 20, "within": "5m"}}`; a field that
            is left out is as in `alerts.thresholds`. `{"throughput": False}`: this signal is no alert for the task.
            `False`: none is. `None`: all as the settings say. Default `None`.
        affected_by: names of the arguments that say who is affected. Default none.
        correlate: names of the arguments that are kept in clear for tracing. Default none.
        redact: names of the arguments that are never shown in clear, beside `password`, `token`, `card` and their
            like. Default none.
        max_latency: the promise on time in the queue: an alert where the task begins later than this after it is due.
            Default 5 minutes.
        expect_every: how often the task succeeds where all is well; an alert where it has not for longer. For tasks
            whose schedule is not in `beat_schedule`. Default none.
        idempotency: that the work takes effect once: `Idempotency(key=("order_id",))`, or `True` for a key that is the
            task id. A second message with the same key gets the first one's result. Default none.
        version: the job's version, kept in the dead letter. Default none.

    Durations are seconds, a `timedelta`, or text such as `"90s"`, `"5m"`, `"2h"`, `"14d"`.

    Raises:
        ConfigurationError: a field is unknown or wrong; its faults name the task, the field, the value, the problem
            and the nearest right spelling. While faults are collected, wrong fields are left at their default.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    retry_on: field.OptionalMatchersField = None
    give_up_on: field.MatchersField = ()
    max_attempts: Annotated[int, Field(ge=1)] | None = 5
    deadline: field.OptionalDurationField = timedelta(hours=2)
    backoff: field.BackoffField = backoffs.DEFAULT
    backoff_for: field.BackoffForField = Field(default_factory=dict)
    jitter: field.JitterField = 0.25
    respect_retry_after: bool = True
    on_exhausted: Annotated[OnExhausted, field.choice("fail", "park")] = "fail"
    max_crashes: Annotated[int, Field(ge=1)] = 3
    dead_letter_queue: Annotated[str, Field(min_length=1)] | None = None
    on_expired: Annotated[OnExpired, field.choice("dead_letter", "drop")] = "dead_letter"
    acks: Annotated[Acks, field.choice("late", "early")] = "late"
    owner: str | None = None
    runbook: str | None = None
    severity: Annotated[Severity, field.choice("info", "warning", "error", "critical")] = "error"
    alert: AlertField = None
    affected_by: field.NamesField = ()
    correlate: field.NamesField = ()
    redact: field.NamesField = ()
    max_latency: field.DurationField = timedelta(minutes=5)
    expect_every: field.OptionalDurationField = None
    idempotency: IdempotencyField = None
    version: str | None = None

    if TYPE_CHECKING:
        # What users may write is wider than what the fields hold.
        def __init__(
            self,
            *,
            retry_on: Sequence[Matcher] | None = ...,
            give_up_on: Sequence[Matcher] = ...,
            max_attempts: int | None = ...,
            deadline: Duration | None = ...,
            backoff: Backoff = ...,
            backoff_for: Mapping[Any, Backoff] = ...,
            jitter: Jitter = ...,
            respect_retry_after: bool = ...,
            on_exhausted: OnExhausted = ...,
            max_crashes: int = ...,
            dead_letter_queue: str | None = ...,
            on_expired: OnExpired = ...,
            acks: Acks = ...,
            owner: str | None = ...,
            runbook: str | None = ...,
            severity: Severity = ...,
            alert: Mapping[str, Any] | TaskAlerts | Literal[False] | None = ...,
            affected_by: Iterable[str] = ...,
            correlate: Iterable[str] = ...,
            redact: Iterable[str] = ...,
            max_latency: Duration = ...,
            expect_every: Duration | None = ...,
            idempotency: Idempotency | Mapping[str, Any] | bool | None = ...,
            version: str | None = ...,
        ) -> None: ...

    else:

        def __init__(self, **data: Any) -> None:
            found: list[Fault] = []
            while True:
                try:
                    super().__init__(**data)
                    break
                except ValidationError as error:
                    further = faults.faults_in(error, type(self))
                # Again without the wrong fields: pydantic checks fields together only when each of them is right.
                found += further
                wrong = {fault.setting.partition(".")[0] for fault in further}
                data = {name: value for name, value in data.items() if name not in wrong}
            if found:
                faults.report(found)

    @model_validator(mode="after")
    def _bounded(self) -> Policy:
        if self.max_attempts is None and self.deadline is None:
            raise field.problem(None, "is needed where max_attempts is None", 'write deadline="2h"', "deadline")
        return self
