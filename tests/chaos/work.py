"""The work of a chaos run: its kinds, what may become of each, and a seeded plan of so many of them.

Owns `KINDS` and `plan`. Knows neither brokers nor processes; `app.py` has the tasks that these kinds name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

__all__ = ["KINDS", "Kind", "Work", "digest_of", "plan"]

_LARGE = 100 * 1024


@dataclass(frozen=True)
class Kind:
    """One kind of task.

    Args:
        name: of the kind.
        task: the task that it runs; for a chain, the task of each link.
        weight: how many of a thousand.
        good: whether it may succeed.
        reasons: the reasons for which it may die by itself; what faults may add is `balance.py`'s business.
        once: declared at-most-once (`acks="early"`).
        attempts: after how many attempts it is exhausted; 0 where that cannot happen.
        crashes: how many of its workers must die before it is dead for that.
        limited: only its time limit ends it; that is the work of a main process that lives and has its broker.
        may_vanish: somebody may have decided that it is not to run (revoked, expired and dropped).
        links: for a chain, the kinds of its links.
    """

    name: str
    task: str
    weight: int
    good: bool = True
    reasons: frozenset[str] = frozenset()
    once: bool = False
    attempts: int = 0
    crashes: int = 10
    limited: bool = False
    may_vanish: bool = False
    links: tuple[str, ...] = ()


def _dies(*reasons: str) -> dict[str, Any]:
    return {"good": False, "reasons": frozenset(reasons)}


_ALL = (
    Kind("ok", "chaos.ok", 230),
    Kind("delayed", "chaos.ok", 70),
    Kind("sleep", "chaos.sleep", 150),
    Kind("long", "chaos.sleep", 25),
    Kind("flaky", "chaos.flaky", 70),
    Kind("flaky_slow", "chaos.flaky_slow", 40),
    Kind("broken", "chaos.broken", 60, attempts=3, **_dies("attempts_exhausted")),
    Kind("bug", "chaos.bug", 40, **_dies("permanent_error")),
    Kind("memory", "chaos.memory", 15, attempts=2, **_dies("attempts_exhausted", "permanent_error")),
    Kind("oom", "chaos.oom", 12, crashes=2, **_dies("worker_lost")),
    Kind("exit", "chaos.exit", 15, attempts=2, **_dies("attempts_exhausted", "permanent_error")),
    Kind("base", "chaos.base", 15, attempts=2, **_dies("attempts_exhausted", "permanent_error")),
    Kind("soft", "chaos.soft", 12, attempts=2, limited=True, **_dies("attempts_exhausted", "time_limit")),
    Kind("hard", "chaos.hard", 12, attempts=2, limited=True, **_dies("time_limit", "attempts_exhausted")),
    Kind("stale", "chaos.ok", 20, **_dies("expired")),
    Kind("hasty", "chaos.ok", 25, reasons=frozenset({"expired"})),
    Kind("dropped", "chaos.dropped", 12, good=False, may_vanish=True),
    Kind("revoked", "chaos.ok", 12, may_vanish=True),
    Kind("once", "chaos.once", 45, once=True),
    Kind("once_delayed", "chaos.once", 15, once=True),
    Kind("once_sleep", "chaos.once_sleep", 25, once=True),
    Kind("once_flaky", "chaos.once_flaky", 15, once=True),
    Kind("large", "chaos.large", 20),
    Kind("large_broken", "chaos.large_broken", 10, **_dies("permanent_error")),
    Kind("chain", "chaos.link", 10, links=("link", "link", "link")),
    Kind("chain_broken", "chaos.link", 5, links=("link", "link_broken", "link")),
    Kind("link", "chaos.link", 0),
    Kind("link_broken", "chaos.link_broken", 0, **_dies("permanent_error")),
)

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _ALL}
"""Every kind by its name. Those without weight come as links of chains only."""


@dataclass(frozen=True)
class Work:
    """One thing to submit: a kind with its arguments and the options of `apply_async`."""

    kind: Kind
    kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    revoke: bool = False

    @property
    def digest(self) -> str:
        """What stands for its arguments in the ledger."""
        return digest_of([], self.kwargs)


def digest_of(args: Any, kwargs: Any) -> str:
    """A digest of arguments as they are after decoding: the same for the same arguments."""
    return hashlib.sha256(json.dumps([list(args), kwargs], sort_keys=True).encode()).hexdigest()[:24]


def plan(seed: int, count: int) -> list[Work]:
    """So much work, the same for the same seed; of every kind at least one, when `count` allows it."""
    rng = Random(seed)
    kinds = [kind for kind in _ALL if kind.weight]
    chosen = kinds[:count] + rng.choices(kinds, [kind.weight for kind in kinds], k=max(0, count - len(kinds)))
    rng.shuffle(chosen)
    return [_work(kind, rng) for kind in chosen]


def _work(kind: Kind, rng: Random) -> Work:
    kwargs: dict[str, Any] = {"token": f"{rng.getrandbits(48):012x}"}
    options: dict[str, Any] = {}
    if kind.name in ("sleep", "once_sleep"):
        kwargs["seconds"] = round(rng.uniform(0.005, 0.3), 3)
    elif kind.name == "long":
        kwargs["seconds"] = round(rng.uniform(2.0, 9.0), 2)
    elif kind.name in ("flaky", "flaky_slow", "once_flaky"):
        kwargs["failures"] = rng.randint(1, 2)
    elif kind.name.startswith("large"):
        kwargs["blob"] = f"{rng.getrandbits(4 * _LARGE):0{_LARGE}x}"
    if kind.name in ("delayed", "once_delayed"):
        options["countdown"] = round(rng.uniform(1.0, 10.0), 2)
    elif kind.name in ("stale", "dropped"):
        options |= {"countdown": 3.0, "expires": 1.5}
    elif kind.name == "hasty":
        options["expires"] = rng.choice((0.5, 5.0, 60.0))
    elif kind.name == "revoked":
        options["countdown"] = 4.0
    return Work(kind, kwargs, options, revoke=kind.name == "revoked")
