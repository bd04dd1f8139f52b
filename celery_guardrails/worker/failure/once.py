"""Which run of which work a request is, for the ledger: the same answer in the main process and in a pool's.

    main process: the request's owner is drawn when its message arrives, renewed while it runs, freed when it is lost
    the process that runs the task: begins and ends the run under the same owner

Owns what tells a request's run from others, which requests need a ledger at all, and how the key of their work is made.
It must not know how a ledger is asked.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

from celery_guardrails.app.guardrails import Guardrails, is_plain
from celery_guardrails.app.in_force import subject_of
from celery_guardrails.idempotency.key import UnusableKey, digest_of, key_of_arguments, key_of_text
from celery_guardrails.idempotency.ledger import Key, Run
from celery_guardrails.letters.header import HEADER, KEY, Header
from celery_guardrails.letters.work import new_token
from celery_guardrails.policy import Idempotency
from celery_guardrails.worker.failure.original import ORIGINAL
from celery_guardrails.worker.failure.work import work_of

__all__ = ["ONCE", "guarded_once", "idempotency_of", "is_once", "key_of", "owner_of", "run_of"]

ONCE = "_guardrails_once"
"""The attribute of a task whose policy says that its work takes effect once."""
_OWNER = "_guardrails_owner"
_SIGNATURE = "_guardrails_signature"
_USUAL = Idempotency()


def is_once(task: Any, header: object) -> bool:
    """Whether a task's run needs the ledger: by its policy, or because its sender gave a key."""
    return getattr(task, ONCE, None) is not None or (type(header) is dict and KEY in header)


def idempotency_of(task: Any) -> Idempotency:
    """What the task's policy says; the defaults, where only the sender of a message asked for it."""
    return Guardrails.of(task.app).policy_of(task).policy.idempotency or _USUAL


def owner_of(request: dict[str, Any]) -> str:
    """The name of this run, which no other run has.

    Args:
        request: a worker's `request_dict`, or the `__dict__` of a task's request.
    """
    properties = request.get("properties")
    found = properties.get(ORIGINAL) if isinstance(properties, Mapping) else None
    arrival = found[4] if isinstance(found, tuple) and len(found) == 5 else None
    if arrival is None:
        # eager, or a request that is not ours: nobody else asks for its name
        arrival = request.setdefault(_OWNER, new_token())
    return str(arrival)


def run_of(task: Any, request: dict[str, Any], header: Header) -> Run:
    """The run of a request."""
    work = f"{work_of(request, header).lasting_key}/{header.generation}"
    retries = request.get("retries")
    turn = (retries if isinstance(retries, int) else 0) + header.crashes
    return Run(
        owner_of(request),
        hashlib.blake2b(work.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest(),
        turn,
        str(subject_of(task).name),
        str(request.get("id") or ""),
    )


def guarded_once(task: Any, request: Any) -> bool:
    """Whether the run of a task's request needs the ledger, and the task is under guard."""
    header = request.__dict__.get(HEADER) or (request.headers or {}).get(HEADER)
    return is_once(task, header) and not is_plain(task)


def key_of(task: Any, task_id: str, header: Header, args: Any, kwargs: Any) -> tuple[Key, str]:
    """The key of a message's work, and the digest of its arguments; empty where they are not compared.

    Args:
        task: the message's.
        task_id: the message's.
        header: the message's header of ours.
        args, kwargs: the message's arguments.

    Raises:
        UnusableKey: the key cannot be made.
    """
    idempotency = idempotency_of(task)
    environment = Guardrails.of(task.app).settings.environment
    scope = idempotency.scope or str(subject_of(task).name)
    args, kwargs = tuple(args or ()), dict(kwargs or {})
    if header.key is not None:
        return key_of_text(environment, scope, header.key), digest_of(_comparable(task, args, kwargs))
    how = idempotency.key
    if how is None:
        return key_of_text(environment, scope, task_id), ""
    if callable(how):
        try:
            text = how(args, kwargs)
        except Exception as exc:
            raise UnusableKey(f"the function that makes the idempotency key failed: {type(exc).__name__}") from exc
        return key_of_text(environment, scope, text), ""
    known = _arguments(task, args, kwargs)
    if missing := [name for name in how if name not in known]:
        raise UnusableKey(f"the idempotency key needs the argument {missing[0]}, which the task was not given")
    return key_of_arguments(environment, scope, {name: known[name] for name in how}), ""


def _comparable(task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments in a form that is the same however they were given; as they are, if the task does not take them."""
    try:
        return _arguments(task, args, kwargs)
    except UnusableKey:
        return [args, kwargs]


def _signature(task: Any) -> inspect.Signature:
    found: inspect.Signature | None = vars(task).get(_SIGNATURE)
    if found is None:
        found = inspect.signature(task.run)
        setattr(task, _SIGNATURE, found)
    return found


def _arguments(task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A task's arguments by name, defaults included: leaving one out is the same work as giving its default."""
    try:
        bound = _signature(task).bind(*args, **kwargs)
    except (TypeError, ValueError) as exc:
        raise UnusableKey(f"the idempotency key cannot be made: {exc}") from exc
    bound.apply_defaults()
    return {**kwargs, **bound.arguments}
