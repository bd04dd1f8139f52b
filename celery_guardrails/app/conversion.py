"""Moving a task from Celery's own options to a policy: what to write, what to leave out, and what will be different.

    converted(task, settings)  `None` for a task whose options say nothing of retries and acknowledgement

Owns the words. Which option means what is in `own_option.py`; nothing is changed here.
"""

from __future__ import annotations

from dataclasses import dataclass

from celery import Task

from celery_guardrails.app.in_force import UNDECLARED, effective_policy, is_guarded
from celery_guardrails.app.own_option import ANNOTATED, OPTIONS, OWN, NeverRetried, Said, said_by, unreadable
from celery_guardrails.policy import Effective, faults
from celery_guardrails.policy.source import arguments_of, source_of
from celery_guardrails.settings import Settings

__all__ = ["Conversion", "converted", "is_early_today"]

_LOST = ("reject_on_worker_lost", "retry_on_worker_lost")
_ATTEMPTS = "Celery's default of 3 retries is not taken over: under guard it has {} attempts in all"
_PAUSES = "Celery's default of 180 s between attempts is not taken over: under guard it is {}"
_EITHER = (
    "Celery never retries an error that derives from classes of both lists; a policy goes by the base that comes first"
)
_BY_ITSELF = "errors that the built-in taxonomy calls transient are retried now, too; retry_on=() leaves that out"
_ENDLESS = "Celery retries it without end; the deadline, 2h where none is written, ends that"


@dataclass(frozen=True, slots=True)
class Conversion:
    """How one task is to be written.

    `early` says whether it is acknowledged before it begins, as things are; `options` are Celery's as they are set now,
    in words; `arguments` are those of `Policy(...)`; `leave_out` names the options that the policy takes the place of;
    `notes` are what is different, or to be looked at.
    """

    task: str
    guarded: bool
    early: bool
    options: dict[str, str]
    arguments: tuple[str, ...]
    leave_out: tuple[str, ...]
    notes: tuple[str, ...]


def converted(task: Task, settings: Settings) -> Conversion | None:
    """What to write for this task in place of its own options; `None` where they say nothing.

    Args:
        task: bound to its application; under guard or not.
        settings: the application's.

    Raises:
        ConfigurationError: its policies and options together are not a valid policy.
    """
    said = {option: found for option in (*OPTIONS, *_LOST) if (found := _said(task, option)) is not None}
    if not said:
        return None
    effective = effective_policy(task, settings)
    fields = [name for name, origin in effective.provenance.items() if origin.startswith((OWN, ANNOTATED))]
    if fields and effective.provenance["deadline"] == UNDECLARED:
        fields.append("deadline")
    policy = effective.policy
    if any(isinstance(each, NeverRetried) for each in policy.give_up_on):
        kept = tuple(each for each in policy.give_up_on if not isinstance(each, NeverRetried))
        policy = policy.model_copy(update={"give_up_on": kept})
    return Conversion(
        task=task.name,
        guarded=is_guarded(task),
        early=not task.acks_late,
        options={option: _shown(found.value) for option, found in said.items()},
        arguments=tuple(arguments_of(policy, fields)),
        leave_out=tuple(option for option, found in said.items() if found.origin == OWN),
        notes=tuple(_notes(task, effective, said)),
    )


def is_early_today(task: Task) -> bool:
    """Whether a plain task is acknowledged before it begins, because nobody has said `acks_late`: Celery's default."""
    return not is_guarded(task) and not task.acks_late and said_by(task, "acks_late") is None


def _said(task: Task, option: str) -> Said | None:
    """What the task, its class or `task_annotations` say; a setting of the whole application stays where it is."""
    found = said_by(task, option)
    if found is None or found.origin not in (OWN, ANNOTATED):
        return None
    if option in _LOST:
        return found if found.value else None
    # of the others `None` is nothing said
    return found if found.value is not None or option == "max_retries" else None


def _shown(value: object) -> str:
    """An option's value; classes by their names."""
    if isinstance(value, (tuple, list)) and all(isinstance(each, type) for each in value):
        return source_of(tuple(value))
    return faults.shown(value)


def _notes(task: Task, effective: Effective, said: dict[str, Said]) -> list[str]:
    notes = [f"cannot be read: {problem}" for problem in unreadable(task)]
    annotated = [option for option, found in said.items() if found.origin == ANNOTATED]
    if annotated:
        notes.append(f"{', '.join(annotated)} is set by task_annotations: leave it out there")
    policy, origins = effective.policy, effective.provenance
    if "autoretry_for" in said and origins["max_attempts"] == "default":
        notes.append(_ATTEMPTS.format(policy.max_attempts))
    if "autoretry_for" in said and origins["backoff"] == "default" and policy.max_attempts != 1:
        notes.append(_PAUSES.format(policy.backoff))
    if policy.retry_on is None and not is_guarded(task):
        notes.append(_BY_ITSELF)
    if policy.max_attempts is None:
        notes.append(_ENDLESS)
    if any(isinstance(each, NeverRetried) for each in policy.give_up_on):
        notes.append(_EITHER)
    lost = [option for option in _LOST if option in said]
    if lost:
        notes.append(f"max_crashes={policy.max_crashes} takes the place of {' and '.join(lost)}")
    base = _own_base(task)
    if base is not None and not is_guarded(task):
        notes.append(f"derive its class {base} from GuardedTask, in place of base=GuardedTask")
    return notes


def _own_base(task: Task) -> str | None:
    """The nearest class of somebody's own that the task derives from; Celery's and Django's are nobody's."""
    for cls in type(task).__mro__:
        if "_decorated" not in vars(cls):
            return None if cls.__module__.startswith("celery.") else cls.__qualname__
    return None
