"""The whole error hierarchy.

Everything of ours that can be raised is here, with the fields that a caller needs to react.
`PermanentError` and `TransientError` are not failures of ours: tasks raise them to say what should happen.
Every class survives a pickle round trip, because Celery pickles exceptions between processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = [
    "UNNAMED_APP",
    "AlertRefused",
    "ConfigurationError",
    "DeadLetterAmbiguous",
    "DeadLetterError",
    "DeadLetterNotFound",
    "Fault",
    "GuardrailsError",
    "InvalidTransition",
    "KeyRefused",
    "LeaseLost",
    "LedgerError",
    "NoArchive",
    "PermanentError",
    "PublishError",
    "QueryError",
    "ReasonRequired",
    "RequeueFailed",
    "SchemaMismatch",
    "SinkError",
    "SpoolError",
    "StoreError",
    "TaskAborted",
    "TransientError",
    "Trouble",
    "UnansweredError",
    "Undelivered",
    "Unlistable",
    "nearest",
]


UNNAMED_APP = "PROJ"
"""Stands for the application in the commands shown, `celery -A PROJ ...`, where its name is not known."""


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was probably meant to be, or `None` when nothing is close."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return found[0] if found else None


@dataclass(frozen=True)
class Fault:
    """One wrong setting, as data: `guardrails check` prints a list of them.

    `task` is `None` for a fault of the settings; `setting` is the field's name (dotted inside the settings,
    `policies.billing.*.max_attempts`); `suggestion` is the nearest right spelling or what to write instead.
    """

    setting: str
    value: str
    problem: str
    task: str | None = None
    suggestion: str | None = None

    def __str__(self) -> str:
        where = f"task {self.task}: " if self.task else ""
        hint = f" ({self.suggestion})" if self.suggestion else ""
        return f"{where}{self.setting} = {self.value}: {self.problem}{hint}"


class GuardrailsError(Exception):
    """Base of every failure of guardrails itself."""


class ConfigurationError(GuardrailsError):
    """A policy or a setting is wrong.

    Attributes:
        faults: every fault that was found.
        setting: the field, or the dotted key, of the first fault.
        value: the value of the first fault; a secret's is hidden.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(tuple(faults))
        self.faults = tuple(faults)
        self.setting = self.faults[0].setting if self.faults else ""
        self.value = self.faults[0].value if self.faults else ""

    def __str__(self) -> str:
        if len(self.faults) == 1:
            return str(self.faults[0])
        return "\n".join([f"{len(self.faults)} faults:", *(f"  {fault}" for fault in self.faults)])


class PublishError(GuardrailsError):
    """A broker did not confirm a message of ours. `.queue` is where it was meant to go.

    `.refused` says that the broker answered and will not take it as things are: no such queue, other arguments, no
    right to write. Else the broker is away, or slow, or full, and trying again helps.

    `.unsure` says of a message that must not be published twice that it was sent and not confirmed: it may be there.
    """

    def __init__(self, queue: str, reason: str, refused: bool = False, unsure: bool = False) -> None:
        super().__init__(queue, reason, refused, unsure)
        self.queue = queue
        self.reason = reason
        self.refused = refused
        self.unsure = unsure

    def __str__(self) -> str:
        perhaps = " (it runs at most once, and may be there nevertheless)" if self.unsure else ""
        return f"could not publish to {self.queue}: {self.reason}{perhaps}"


class LedgerError(GuardrailsError):
    """The ledger of idempotent work is away, or refuses what it was asked. `.ledger` is where it is."""

    def __init__(self, ledger: str, reason: str) -> None:
        super().__init__(ledger, reason)
        self.ledger = ledger
        self.reason = reason

    def __str__(self) -> str:
        return f"the ledger {self.ledger}: {self.reason}"


class KeyRefused(GuardrailsError):
    """What was asked of the ledger about a key is not possible: it knows no such work, or the work is being done."""


class LeaseLost(GuardrailsError):
    """Another run has begun the same work, because this one did not renew its lease in time.

    `.key` is the work's key, `.fence` the number of this run. What it writes in a transaction must not be committed.
    """

    def __init__(self, key: str, fence: int) -> None:
        super().__init__(key, fence)
        self.key = key
        self.fence = fence

    def __str__(self) -> str:
        return f"another run has taken the work {self.key} over from run {self.fence}"


class UnansweredError(PublishError):
    """A broker that was to be read did not answer. `.queue` is the broker's address, without a password."""

    def __str__(self) -> str:
        return f"{self.queue} does not answer: {self.reason}"


class SpoolError(GuardrailsError):
    """The spool cannot be read or written, or others may write it, or it is full, or its disk is.

    `.directory` is where it is; `.fix` says what to do, where that is known.
    """

    def __init__(self, directory: str, reason: str, fix: str = "") -> None:
        super().__init__(directory, reason, fix)
        self.directory = directory
        self.reason = reason
        self.fix = fix

    def __str__(self) -> str:
        return f"the spool {self.directory}: {self.reason}"


class Unlistable(GuardrailsError):
    """This broker cannot list what waits in it. `.way` says how messages wait there."""

    def __init__(self, way: str) -> None:
        super().__init__(way)
        self.way = way

    def __str__(self) -> str:
        return f"waiting tasks cannot be listed on this broker: they wait by {self.way}"


class StoreError(GuardrailsError):
    """The archive cannot be opened, read or written.

    Attributes:
        url: where the archive is, without the password.
        reason: what the database said.
        away: whether the database does not answer now, or is locked: trying again helps.
        full: whether it has no room, or cannot write for another reason of its machine's: somebody has to see to it.
    """

    def __init__(self, url: str, reason: str, away: bool = False, full: bool = False) -> None:
        super().__init__(url, reason, away, full)
        self.url = url
        self.reason = reason
        self.away = away
        self.full = full

    def __str__(self) -> str:
        return f"archive {self.url}: {self.reason}"


class NoArchive(StoreError):
    """Nobody has made the archive yet: its first guardian does."""


class SchemaMismatch(StoreError):
    """The archive's schema is newer than this version, or older where we do not migrate by ourselves."""


class QueryError(GuardrailsError):
    """A query names an unknown field or is malformed. `.term` is the part that is wrong."""

    def __init__(self, term: str, problem: str, suggestion: str | None = None) -> None:
        super().__init__(term, problem, suggestion)
        self.term = term
        self.problem = problem
        self.suggestion = suggestion

    def __str__(self) -> str:
        hint = f" (did you mean {self.suggestion!r}?)" if self.suggestion else ""
        return f"{self.term}: {self.problem}{hint}"


class DeadLetterError(GuardrailsError):
    """Something is wrong with one dead letter. Its attribute `dead_letter_id` says which."""

    def __init__(self, dead_letter_id: str, problem: str = "") -> None:
        super().__init__(dead_letter_id, problem)
        self.dead_letter_id = dead_letter_id
        self.problem = problem

    def __str__(self) -> str:
        return f"dead letter {self.dead_letter_id}: {self.problem}"


class DeadLetterNotFound(DeadLetterError):
    """No dead letter has this id, or several do where the id was shortened."""

    def __init__(self, dead_letter_id: str, problem: str = "not found") -> None:
        super().__init__(dead_letter_id, problem)


class DeadLetterAmbiguous(DeadLetterNotFound):
    """Several dead letters are meant: they have this task id, or their ids begin so.

    Args:
        dead_letter_id: what was written.
        choices: the ids of at most so many of them as are worth naming.
        of_one_task_id: whether they all have exactly this task id.
    """

    def __init__(self, dead_letter_id: str, choices: Sequence[str], of_one_task_id: bool = False) -> None:
        why = "is the task id of several" if of_one_task_id else "several begin so"
        super().__init__(dead_letter_id, f"{why}, write which: {', '.join(choices)}")
        self.choices = tuple(choices)
        self.of_one_task_id = of_one_task_id
        self.args = (dead_letter_id, self.choices, of_one_task_id)


class InvalidTransition(DeadLetterError):
    """The dead letter is in a state from which this cannot be done."""


class RequeueFailed(DeadLetterError):
    """The broker did not take the requeued message; the letter is `dead` again."""


class ReasonRequired(GuardrailsError):
    """Somebody set out to change a dead letter without saying why. `.action` is what they wanted to do."""

    def __init__(self, action: str) -> None:
        super().__init__(action)
        self.action = action

    def __str__(self) -> str:
        return f"{self.action}: a reason is required, it goes into the audit trail"


class AlertRefused(GuardrailsError):
    """What somebody asked for about an alert or a silence cannot be done: it is not there, or the request is wrong."""


class SinkError(GuardrailsError):
    """A sink did not take an alert.

    Attributes:
        reason: what the sink said.
        retryable: whether trying again can help.
        retry_after: the least wait in seconds that the sink asked for, or `None`.
    """

    def __init__(self, reason: str, retryable: bool = True, retry_after: float | None = None) -> None:
        super().__init__(reason, retryable, retry_after)
        self.reason = reason
        self.retryable = retryable
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.reason


class Trouble(str, Enum):
    """Why a sink did not take a message, as far as it matters for what to do next.

    `rate_limited` it asks for a pause; `unavailable` it certainly did not take it, later it may; `uncertain` nobody
    knows whether it took it; `auth` nothing can be sent until somebody mends the credentials; `channel` this channel
    cannot be written to; `gone` the message to change is no more; `too_big` it rejects the layout, plain text may do;
    `refused` it will never take this message.
    """

    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    UNCERTAIN = "uncertain"
    AUTH = "auth"
    CHANNEL = "channel"
    GONE = "gone"
    TOO_BIG = "too_big"
    REFUSED = "refused"

    def __str__(self) -> str:
        return self.value


class Undelivered(SinkError):
    """A sink did not take a message, or nobody knows whether it did.

    Args:
        trouble: what kind of trouble it is; decides what the poster does.
        reason: the sink's own words, such as Slack's `not_in_channel`. Never holds a credential.
        retry_after: the least wait in seconds that the sink asked for, or `None`.
    """

    def __init__(self, trouble: Trouble, reason: str, retry_after: float | None = None) -> None:
        retryable = trouble in (Trouble.RATE_LIMITED, Trouble.UNAVAILABLE, Trouble.UNCERTAIN)
        super().__init__(reason, retryable, retry_after)
        self.trouble = trouble
        self.args = (trouble, reason, retry_after)


class PermanentError(Exception):
    """Raise it in a task to say: trying again cannot help. The task is dead-lettered at once."""


class TransientError(Exception):
    """Raise it in a task to say: try again later.

    Args:
        retry_after: the least delay in seconds before the next attempt, or `None` to leave it to the policy.
    """

    def __init__(self, *args: Any, retry_after: float | None = None) -> None:
        super().__init__(*args)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return (_transient, (type(self), self.args, self.retry_after))


class TaskAborted(Exception):
    """What leaves a task whose body ended by something that would end its worker too: `sys.exit()`, a MemoryError.

    It is of a class derived from this one, with the name and the arguments of the original, so that a result backend
    keeps, and `result.get()` raises, the original's type where it can be built.

    Args:
        error: the dotted name of what the body raised, such as `SystemExit`.
        message: its text.
    """

    def __init__(self, error: str, message: str = "") -> None:
        super().__init__(error, message)
        self.error = error
        self.message = message

    def __str__(self) -> str:
        return f"the body ended by {self.error}" + (f": {self.message}" if self.message else "")


def _transient(cls: type[TransientError], args: tuple[Any, ...], retry_after: float | None) -> TransientError:
    return cls(*args, retry_after=retry_after)
