"""The dead letter as data, schema version 1.

Owns: id, task, task_id, root_id, parent_id, group_id, reason, failure, attempts, policy, environment, worker, queue,
exchange, routing_key, priority, published_at, first_failed_at, died_at, correlation, affected, version, owner,
runbook, severity, generation, dead_letter_id, claim_token, may_have_run, crashes, span, preview, and message (the
original bytes, headers and properties).
`Letter.of_message` makes every letter, whoever writes it. It must not know how a letter is published, stored or shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Annotated, Any
from uuid import UUID, uuid5

from pydantic import AfterValidator, Base64Bytes, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from celery_guardrails.clock import LONGEST
from celery_guardrails.letters.header import Header, span_text
from celery_guardrails.letters.ran import may_have_run
from celery_guardrails.letters.work import Work
from celery_guardrails.policy import Policy, policy_fields
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Attempt, Category

__all__ = [
    "SCHEMA_VERSION",
    "SELF_TEST",
    "Death",
    "FailedAttempt",
    "Letter",
    "LetterFailure",
    "Named",
    "OriginalMessage",
    "Place",
    "Preview",
    "Shown",
    "Subject",
    "in_utc",
    "letter_id",
    "values_of",
]

Named = str | tuple[str, ...]
"""The value of an argument that a policy names, as text; several values if a message runs its task for many items."""

SCHEMA_VERSION = 1
SELF_TEST = "celery_guardrails.self_test"
"""The task of `doctor --self-test`: its letters are archived like all others, but raise no alert."""
_LONGEST_ID = 255
_HIGHEST = 2**31
_LONGEST_DELAY = LONGEST.total_seconds()
_FIRST = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LAST = datetime(3000, 1, 1, tzinfo=timezone.utc)
# as many attempts as a header keeps, and the last attempt in addition
_FIRST_ATTEMPTS, _LAST_ATTEMPTS = 2, 9
_NAMESPACE = UUID("6a0f5b0e-6a1c-5c59-9d0e-2f6f7f2f4c11")
_NO_POLICY = Policy()


def _some_text(value: Any) -> Any:
    """An id in a message, as text: a letter must not fail because somebody's id is a number."""
    return value if value is None or isinstance(value, str) else str(value)[:_LONGEST_ID]


def _some_priority(value: Any) -> Any:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _HIGHEST else None


def in_utc(at: datetime) -> datetime:
    """An instant in UTC, between 1970 and 3000. Without a time zone it counts as UTC, as Celery and we write it."""
    if at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)
    try:
        return min(max(at.astimezone(timezone.utc), _FIRST), _LAST)
    except (OverflowError, ValueError):  # the first and the last hours of the calendar
        return _FIRST if at.year < _LAST.year else _LAST


def _some_delay(value: Any) -> Any:
    """A delay in seconds; `None` for a delay that nobody can have waited."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) and 0 <= value <= _LONGEST_DELAY else None


def _some_attempts(value: Any) -> Any:
    """The first 2 and the last 9 attempts, if a message lists more than a worker writes."""
    if not isinstance(value, (list, tuple)) or len(value) <= _FIRST_ATTEMPTS + _LAST_ATTEMPTS:
        return value
    return [*value[:_FIRST_ATTEMPTS], *value[-_LAST_ATTEMPTS:]]


_SomeText = Annotated[str | None, BeforeValidator(_some_text)]
_Instant = Annotated[datetime, AfterValidator(in_utc)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class LetterFailure(_Frozen):
    """The last attempt's error; `transient` is the taxonomy's verdict, `None` for an error that it does not know."""

    type: str
    message: str
    category: Category
    fingerprint: str
    traceback: str = ""
    transient: bool | None = None


class FailedAttempt(_Frozen):
    """One failed attempt; `delay` is in seconds."""

    number: int
    started_at: _Instant | None = None
    ended_at: _Instant
    error: str
    message: str
    category: Category = Category.UNKNOWN
    fingerprint: str = ""
    worker: str = ""
    delay: Annotated[float | None, BeforeValidator(_some_delay)] = None
    generation: int = 0

    @classmethod
    def of(cls, attempt: Attempt) -> FailedAttempt:
        """The letter's form of a history entry."""
        return cls.model_construct(**{name: getattr(attempt, name) for name in cls.model_fields})

    def entry(self) -> Attempt:
        """This attempt as a history entry."""
        return Attempt(**{name: getattr(self, name) for name in type(self).model_fields})


class OriginalMessage(_Frozen):
    """The message as the worker got it, byte for byte: enough to publish it again without importing the task.

    `compressed` says that the body is still compressed, in the way that the header `compression` names: nobody could
    decompress it.
    """

    body: Base64Bytes
    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] = Field(default_factory=dict)
    properties: dict[str, Any] = Field(default_factory=dict)
    compressed: bool = False


class Preview(_Frozen):
    """The arguments as people may see them: redacted, and cut if they are long."""

    args: str = ""
    kwargs: str = ""
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Subject:
    """The task that a message is for, and the tasks that it belongs to: what the message says."""

    task: str
    task_id: str
    root_id: Any = None
    parent_id: Any = None
    group_id: Any = None


@dataclass(frozen=True, slots=True)
class Death:
    """Why a message is dead. `id` is the letter's; `explanation` shows no secret."""

    id: str
    reason: Reason
    explanation: str
    failure: LetterFailure
    at: datetime
    may_have_run: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message died, and how it had come there."""

    environment: str = ""
    worker: str = ""
    queue: str = ""
    exchange: str = ""
    routing_key: str = ""
    priority: Any = None


@dataclass(frozen=True, slots=True)
class Shown:
    """What people see of a message's arguments."""

    preview: Preview = field(default_factory=Preview)
    correlation: Mapping[str, Named] = field(default_factory=dict)
    affected: Mapping[str, Named] = field(default_factory=dict)


class Letter(_Frozen):
    """Everything needed to run a task again byte for byte, and to understand why it died.

    `dead_letter_id` is set for a further death of requeued work: it is the id of the work's first letter. `claim_token`
    is then the secret of that requeue; it is never shown.
    `correlation` and `affected` hold the arguments that the policy names, with several values if the message ran its
    task for many items. `owner`, `runbook` and `severity` are the policy's, so that an alert needs no task code.
    `crashes` counts the workers that died while they ran the work. `may_have_run` says that the body may have done its
    work already; for an older letter without this field, its reason and policy decide. `span` is the span in which the
    work died, else that of its last attempt with a span, in the form of W3C's `traceparent`.
    """

    v: int = SCHEMA_VERSION
    id: str
    task: str
    task_id: str
    root_id: _SomeText = None
    parent_id: _SomeText = None
    group_id: _SomeText = None
    reason: Reason
    explanation: str = ""
    failure: LetterFailure
    attempts: Annotated[tuple[FailedAttempt, ...], BeforeValidator(_some_attempts)] = ()
    policy: dict[str, Any] = Field(default_factory=dict)
    environment: str = ""
    worker: str = ""
    queue: str = ""
    exchange: str = ""
    routing_key: str = ""
    priority: Annotated[int | None, BeforeValidator(_some_priority)] = None
    published_at: _Instant | None = None
    first_failed_at: _Instant
    died_at: _Instant
    correlation: dict[str, Named] = Field(default_factory=dict)
    affected: dict[str, Named] = Field(default_factory=dict)
    version: str | None = None
    owner: str | None = None
    runbook: str | None = None
    severity: str = "error"
    generation: int = 0
    dead_letter_id: str | None = None
    claim_token: str | None = Field(default=None, repr=False)
    may_have_run: bool = False
    crashes: int = 0
    span: Annotated[str | None, BeforeValidator(span_text)] = None
    preview: Preview = Preview()
    message: OriginalMessage

    @classmethod
    def of_message(
        cls, message: OriginalMessage, subject: Subject, death: Death, place: Place, *, header: Header | None = None,
        attempts: Sequence[Attempt] = (), policy: Policy | None = None, owner: Policy | None = None,
        shown: Shown | None = None,
    ) -> Letter:  # fmt: skip
        """The letter of a message that will not run again by itself.

        Args:
            message: the message as it came.
            subject: whose message it is.
            death: why it is dead.
            place: where it died.
            header: its guardrails header; `None`: nothing in the message is to be trusted.
            attempts: the failed attempts, oldest first.
            policy: the policy that was in force; `None`: none was.
            owner: the policy that says whose task it is; `None`: the one that was in force.
            shown: what people see of its arguments; `None`: nothing.
        """
        header, owner, shown = header or Header(), owner or policy or _NO_POLICY, shown or Shown()
        return cls(
            id=death.id,
            **_fields_of(subject),
            reason=death.reason,
            explanation=death.explanation,
            failure=death.failure,
            attempts=tuple(FailedAttempt.of(attempt) for attempt in attempts),
            policy={} if policy is None else policy_fields(policy),
            **_fields_of(place),
            published_at=header.published_at,
            first_failed_at=attempts[0].ended_at if attempts else death.at,
            died_at=death.at,
            **_fields_of(shown),
            **_owner_by(owner),
            generation=header.generation,
            dead_letter_id=header.dead_letter_id,
            claim_token=header.claim_token,
            may_have_run=death.may_have_run,
            crashes=header.crashes,
            span=header.span,
            message=message,
        )

    @model_validator(mode="before")
    @classmethod
    def _judged(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("may_have_run") is not None or "reason" not in data:
            return data
        policy = data.get("policy")
        late = not isinstance(policy, dict) or policy.get("acks") != "early"
        try:
            reason = Reason(data["reason"])
        except ValueError:  # the field's own validation reports it
            return data
        return {**data, "may_have_run": may_have_run(reason, late=late)}

    @property
    def origin_id(self) -> str:
        """The id under which the archive keeps this work: the id of its first death."""
        return self.dead_letter_id or self.id


def _fields_of(part: Subject | Place | Shown) -> dict[str, Any]:
    return {name: getattr(part, name) for name in part.__slots__}


def _owner_by(policy: Policy) -> dict[str, Any]:
    """Whose work it is, as the policy says."""
    return {name: getattr(policy, name) for name in ("version", "owner", "runbook", "severity")}


def values_of(named: Named) -> tuple[str, ...]:
    """The values of one name, however many there are."""
    return (named,) if isinstance(named, str) else named


def letter_id(work: Work, attempt: int, generation: int, reason: Reason) -> str:
    """The id of one death (UUID version 5): the same death captured twice has one id, every other death its own."""
    return str(uuid5(_NAMESPACE, f"{work.key}/{attempt}/{generation}/{reason.value}"))
