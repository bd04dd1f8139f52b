"""Whether a message has the shape that a task's message must have, before anything acts on it.

Owns the wrong shapes that Celery notices too late: it reports them as success, drops them without a log line, or ends
the worker. The check runs for every message, so a good message passes in a few comparisons.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import isfinite
from typing import Any

from celery import Celery
from celery.utils.time import maybe_iso8601, maybe_make_aware, timezone
from kombu.asynchronous.timer import to_timestamp

__all__ = ["shape_problem"]

_UNLIMITED = [None, None]
_EMBED = {"callbacks", "errbacks", "chain", "chord"}
_LONGEST = 2**31
# An instant between these years is in range in every time zone.
_FIRST_YEAR, _LAST_YEAR = "1971", "9998"


def shape_problem(headers: Mapping[str, Any], payload: Any, app: Celery, guarded: bool) -> str | None:
    """What is wrong with a message whose task is known; `None`: nothing.

    Faults that Celery itself notices in time (such as a text that is not a date) are left to Celery.

    Args:
        headers: the message's headers.
        payload: its decoded body.
        app: the application.
        guarded: whether the task is under guard: then its id must be a text and its `retries` a number, which retries
            and dead letters need.
    """
    if type(payload) is not list or len(payload) != 3:
        problem = _payload_problem(payload, "task" in headers, guarded)
        if problem is not None:
            return problem
        if isinstance(payload, Mapping):
            headers = {**payload, **headers}
    else:
        args, kwargs, embed = payload
        plain = type(args) is list and type(kwargs) is dict and type(embed) is dict and embed.keys() == _EMBED
        if not plain and (problem := _parts_problem(args, kwargs, embed, guarded)):
            return problem
    timelimit = headers.get("timelimit")
    if timelimit and timelimit != _UNLIMITED and (problem := _timelimit_problem(timelimit)):
        return problem
    task_id, retries = headers.get("id"), headers.get("retries")
    if not (task_id and type(task_id) is str and type(retries) is int and 0 <= retries < _LONGEST):
        problem = _identity_problem(task_id, retries, guarded)
        if problem is not None:
            return problem
    if (headers.get("shadow") or headers.get("stamped_headers")) and (problem := _header_problem(headers)):
        return problem
    eta = headers.get("eta")
    return _eta_problem(eta, app) if eta else None


def _payload_problem(payload: Any, named: bool, guarded: bool) -> str | None:
    if isinstance(payload, Mapping) and ("args" in payload or not named):  # a hybrid, or protocol 1
        return _parts_problem(payload.get("args", []), payload.get("kwargs", {}), None, guarded)
    if not isinstance(payload, (list, tuple)):
        return f"the body is {_kind(payload)}, not a list of args, kwargs and embed"
    if len(payload) != 3:
        return f"the body is a list of {len(payload)} items, not of args, kwargs and embed"
    args, kwargs, embed = payload
    return _parts_problem(args, kwargs, embed, guarded)


def _parts_problem(args: Any, kwargs: Any, embed: Any, guarded: bool) -> str | None:
    if not isinstance(args, (list, tuple)):
        return f"args is {_kind(args)}, not a list"
    if not isinstance(kwargs, Mapping):
        return f"kwargs is {_kind(kwargs)}, not a mapping"
    if embed is not None and not isinstance(embed, Mapping):
        return f"embed is {_kind(embed)}, not a mapping"
    if guarded and embed and not embed.keys() <= _EMBED:
        # Celery lets embed replace anything in the task's request, even the id
        return "embed holds more than callbacks, errbacks, chain and chord"
    return None


def _timelimit_problem(timelimit: Any) -> str | None:
    if not isinstance(timelimit, (list, tuple)) or len(timelimit) != 2:
        return f"timelimit is {_kind(timelimit)}, not a pair"
    for seconds in timelimit:
        if seconds is None:
            continue
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            return f"timelimit has {_kind(seconds)}, not a number of seconds"
        if not isfinite(seconds) or not 0 <= seconds <= _LONGEST:
            return "timelimit is out of range"
    return None


def _identity_problem(task_id: Any, retries: Any, guarded: bool) -> str | None:
    if not task_id:
        return "it has no id"
    if not guarded:
        return None  # Celery runs such a task, whatever its id and retries are
    if not isinstance(task_id, str):
        return f"id is {_kind(task_id)}, not a text"
    if retries is None:
        return None
    if isinstance(retries, bool) or not isinstance(retries, int):
        return f"retries is {_kind(retries)}, not a number"
    return None if 0 <= retries < _LONGEST else "retries is out of range"


def _header_problem(headers: Mapping[str, Any]) -> str | None:
    shadow, stamped, stamps = headers.get("shadow"), headers.get("stamped_headers"), headers.get("stamps")
    if shadow and not isinstance(shadow, Hashable):
        # Celery counts tasks by this name: it would run the task, and then fail to acknowledge the message
        return f"shadow is {_kind(shadow)}, not a text"
    # Celery looks up whether a stamp is revoked, and an error there ends the worker
    if stamped and not isinstance(stamped, (list, tuple, set, frozenset)):
        return f"stamped_headers is {_kind(stamped)}, not a list"
    if stamped and not all(isinstance(stamp, Hashable) for stamp in stamped):
        return "stamped_headers holds a value that is not a text"
    if stamped and stamps and not isinstance(stamps, Mapping):
        return f"stamps is {_kind(stamps)}, not a mapping"
    return None


def _eta_problem(eta: Any, app: Celery) -> str | None:
    """Whether the instant is out of range: Celery would store a failure for it and drop the message."""
    if isinstance(eta, str) and _FIRST_YEAR <= eta[:4] <= _LAST_YEAR:
        return None
    try:
        due = maybe_make_aware(maybe_iso8601(eta), app.timezone)
    except Exception:  # noqa: BLE001 Celery gets the same error, and calls the task invalid
        return None
    try:
        to_timestamp(timezone.to_system(due) if app.uses_utc_timezone() else due)
    except Exception as exc:  # noqa: BLE001 whatever it is, the instant is out of range
        return f"eta is out of range: {exc}"
    return None


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
