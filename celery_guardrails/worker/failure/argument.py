"""A task's arguments by their names, and which of their values must not be shown anywhere.

Owns how positional arguments get their parameters' names. It must not fail whatever the arguments are.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from celery_guardrails.app.carried import carried_items
from celery_guardrails.app.in_force import subject_of
from celery_guardrails.redaction import Redactor

__all__ = ["arguments_by_name", "parameter_names", "redactor_of_run", "secret_values"]

_ITEMS = 20
"""How many items of a `map` or `starmap` are searched for secret values."""


def parameter_names(task: Any) -> list[str]:
    """The names of a task's positional parameters, in the order in which a caller gives them."""
    run = getattr(task, "run", None)
    try:
        return list(_positional(run))
    except TypeError:  # it has no hash, so it cannot be cached
        return list(_positional.__wrapped__(run))


@lru_cache(maxsize=1000)
def _positional(run: Any) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(run).parameters.values()
    except (AttributeError, TypeError, ValueError):
        return ()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def arguments_by_name(task: Any, args: Any, kwargs: Any) -> list[dict[str, Any]]:
    """The arguments by their names: one mapping for a task, or one for each item of a `map` or `starmap`."""
    subject = subject_of(task)
    names = parameter_names(subject)
    if subject is task:
        return [{**dict(zip(names, args, strict=False)), **kwargs}]
    return [dict(zip(names, item, strict=False)) for item in carried_items(task.name, args, kwargs)]


def secret_values(task: Any, args: Any, kwargs: Any, redactor: Redactor) -> Iterator[Any]:
    """The values that a name hides: the name of their parameter, or a key inside them."""
    if isinstance(kwargs, Mapping):
        yield from redactor.hidden(kwargs)
    if not args:
        return
    subject = subject_of(task)
    names = parameter_names(subject)
    items = [args] if subject is task else carried_items(task.name, args, kwargs)[:_ITEMS]
    for item in items:
        if isinstance(item, (list, tuple)):
            for name, value in zip_longest(names[: len(item)], itertools.islice(item, len(names) or None)):
                yield from redactor.hidden(value, name)


def redactor_of_run(redactor: Redactor, task: Any, request: Any) -> Redactor:
    """The redactor of one run: it also hides the run's own secret arguments, in every text.

    An error's message may quote a passphrase of plain words. Nothing in the words shows that they are secret, but the
    name of the argument does.

    Args:
        redactor: by the settings and the policy.
        task: the task, or the carrier that runs it for many items.
        request: the run's request.
    """
    try:
        return redactor.knowing(secret_values(task, request.args or (), request.kwargs or {}, redactor))
    except Exception:  # noqa: BLE001 the arguments may be anything: then names and looks alone hide them
        return redactor
