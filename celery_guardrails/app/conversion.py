"""Says how to move a task from Celery's own options to a policy: what to write, what to remove, what will change.

    converted(task, settings)  `None` for a task whose options set nothing about retries and acknowledgement

Owns the words. `own_option.py` owns what each option means. Nothing here changes a task.
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
_ATTEMPTS = "Celery's default of 3 retries is not taken over: under guard the task has {} attempts in all"
_PAUSES = "Celery's default of 180 s between attempts is not taken over: under guard the backoff is {}"
_EITHER = (
    "Celery never retries an error that derives from classes in both autoretry_for and dont_autoretry_for; "
    "a policy decides by the base class that comes first"
)
_BY_ITSELF = "errors that the built-in taxonomy calls transient are retried under guard, too; retry_on=() stops this"
_ENDLESS = "Celery retries it without end; under guard the deadline ends the retries, after 2h where you write none"


@dataclass(frozen=True, slots=True)
class Conversion:
    """How to write one task.

    `early` says whether it is acknowledged before it begins today; `options` are Celery's options as they are set
    today, in words; `arguments` are those of `Policy(...)`; `leave_out` names the options that the policy replaces;
    `notes` say what will be different, or needs a look.
    """

    task: str
    guarded: bool
    early: bool
    options: dict[str, str]
    arguments: tuple[str, ...]
    leave_out: tuple[str, ...]
    notes: tuple[str, ...]


def converted(task: Task, settings: Settings) -> Conversion | None:
    """What to write for this task in place of its own options; `None` where the options set nothing to convert.

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
    """Whether a plain task is acknowledged before it begins by Celery's default: nobody has set `acks_late`."""
    return not is_guarded(task) and not task.acks_late and said_by(task, "acks_late") is None


def _said(task: Task, option: str) -> Said | None:
    """What the task, its class or `task_annotations` set; a setting of the whole application is not converted."""
    found = said_by(task, option)
    if found is None or found.origin not in (OWN, ANNOTATED):
        return None
    if option in _LOST:
        return found if found.value else None
    # `None` sets only `max_retries`: any other option is not set by it
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
        notes.append(f"{', '.join(annotated)} is set by task_annotations: remove it there")
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
        notes.append(f"max_crashes={policy.max_crashes} replaces {' and '.join(lost)}")
    base = _own_base(task)
    if base is not None and not is_guarded(task):
        notes.append(f"derive its class {base} from GuardedTask instead of writing base=GuardedTask")
    return notes


def _own_base(task: Task) -> str | None:
    """The nearest base class that is not Celery's (its Django task counts as Celery's); `None`: there is none."""
    for cls in type(task).__mro__:
        if "_decorated" not in vars(cls):
            return None if cls.__module__.startswith("celery.") else cls.__qualname__
    return None
