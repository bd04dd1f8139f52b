"""Whether a message has the shape that a task's message must have, before anybody acts on it.

Owns what Celery does not look at until it is too late: wrong shapes that it reports as success, drops without a word,
or ends the worker for. Runs for every message, so a good one passes in a few comparisons.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import isfinite
from typing import Any

from celery import Celery
from celery.utils.time import maybe_iso8601, maybe_make_aware, timezone
from kombu.asynchronous.timer import to_timestamp

__all__ = ["misshapen"]

_UNLIMITED = [None, None]
_EMBED = {"callbacks", "errbacks", "chain", "chord"}
_LONGEST = 2**31
# Between these no time zone takes an instant out of what clocks show.
_FIRST_YEAR, _LAST_YEAR = "1971", "9998"


def misshapen(headers: Mapping[str, Any], payload: Any, app: Celery, guarded: bool) -> str | None:
    """What is wrong with a message whose task is known; `None` if nothing is.

    What Celery sees by itself (no id, a date that is none) is left to it.

    Args:
        headers: the message's headers.
        payload: its decoded body.
        app: the application.
        guarded: whether the task is under guard, so that retries and dead letters need its id and its number.
    """
    if type(payload) is not list or len(payload) != 3:
        problem = _payload(payload, "task" in headers, guarded)
        if problem is not None:
            return problem
        if isinstance(payload, Mapping):
            headers = {**payload, **headers}
    else:
        args, kwargs, embed = payload
        plain = type(args) is list and type(kwargs) is dict and type(embed) is dict and embed.keys() == _EMBED
        if not plain and (problem := _parts(args, kwargs, embed, guarded)):
            return problem
    timelimit = headers.get("timelimit")
    if timelimit and timelimit != _UNLIMITED and (problem := _timelimit(timelimit)):
        return problem
    task_id, retries = headers.get("id"), headers.get("retries")
    if not (task_id and type(task_id) is str and type(retries) is int and 0 <= retries < _LONGEST):
        problem = _identity(task_id, retries, guarded)
        if problem is not None:
            return problem
    if (headers.get("shadow") or headers.get("stamped_headers")) and (problem := _looked_up(headers)):
        return problem
    eta = headers.get("eta")
    return _eta(eta, app) if eta else None


def _payload(payload: Any, named: bool, guarded: bool) -> str | None:
    if isinstance(payload, Mapping) and ("args" in payload or not named):  # a hybrid, or protocol 1
        return _parts(payload.get("args", []), payload.get("kwargs", {}), None, guarded)
    if not isinstance(payload, (list, tuple)):
        return f"the body is {_kind(payload)}, not a list of args, kwargs and embed"
    if len(payload) != 3:
        return f"the body is a list of {len(payload)}, not of args, kwargs and embed"
    args, kwargs, embed = payload
    return _parts(args, kwargs, embed, guarded)


def _parts(args: Any, kwargs: Any, embed: Any, guarded: bool) -> str | None:
    if not isinstance(args, (list, tuple)):
        return f"args is {_kind(args)}, not a list"
    if not isinstance(kwargs, Mapping):
        return f"kwargs is {_kind(kwargs)}, not a mapping"
    if embed is not None and not isinstance(embed, Mapping):
        return f"embed is {_kind(embed)}, not a mapping"
    if guarded and embed and not embed.keys() <= _EMBED:
        # Celery lets it replace anything in the task's request, even its id
        return "embed holds more than callbacks, errbacks, chain and chord"
    return None


def _timelimit(timelimit: Any) -> str | None:
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


def _identity(task_id: Any, retries: Any, guarded: bool) -> str | None:
    if not task_id:
        return "it has no id"
    if not guarded:
        return None  # Celery runs it, whatever these are
    if not isinstance(task_id, str):
        return f"id is {_kind(task_id)}, not a text"
    if retries is None:
        return None
    if isinstance(retries, bool) or not isinstance(retries, int):
        return f"retries is {_kind(retries)}, not a number"
    return None if 0 <= retries < _LONGEST else "retries is out of range"


def _looked_up(headers: Mapping[str, Any]) -> str | None:
    shadow, stamped, stamps = headers.get("shadow"), headers.get("stamped_headers"), headers.get("stamps")
    if shadow and not isinstance(shadow, Hashable):
        # the name that Celery counts by: it would run the task and then fail to acknowledge it
        return f"shadow is {_kind(shadow)}, not a text"
    # where it looks whether a stamp is revoked, an error ends the worker
    if stamped and not isinstance(stamped, (list, tuple, set, frozenset)):
        return f"stamped_headers is {_kind(stamped)}, not a list"
    if stamped and not all(isinstance(stamp, Hashable) for stamp in stamped):
        return "stamped_headers holds what is no text"
    if stamped and stamps and not isinstance(stamps, Mapping):
        return f"stamps is {_kind(stamps)}, not a mapping"
    return None


def _eta(eta: Any, app: Celery) -> str | None:
    """An instant that no clock shows: Celery stores a failure for it and drops the message."""
    if isinstance(eta, str) and _FIRST_YEAR <= eta[:4] <= _LAST_YEAR:
        return None
    try:
        due = maybe_make_aware(maybe_iso8601(eta), app.timezone)
    except Exception:  # noqa: BLE001 Celery meets it too, and calls it an invalid task
        return None
    try:
        to_timestamp(timezone.to_system(due) if app.uses_utc_timezone() else due)
    except Exception as exc:  # noqa: BLE001 whatever it is, there is no such instant
        return f"eta is out of range: {exc}"
    return None


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
