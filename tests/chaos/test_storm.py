"""The plans of work and of faults: the same for the same seed, of every kind some."""

from __future__ import annotations

import time
from collections import Counter
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos import storm as storm_module
from tests.chaos.fault import FAULTS, Applied, Fault
from tests.chaos.storm import Storm, planned
from tests.chaos.work import KINDS, plan


def test_the_plan_of_faults_follows_from_the_seed() -> None:
    first, again = (planned(Random(5), 200, 4) for _ in range(2))
    assert first == again
    assert planned(Random(6), 200, 4) != first


def test_the_plan_has_all_faults_and_restarts_as_the_broker_bears_them() -> None:
    counts = Counter(fault.name for fault in planned(Random(5), 200, 4))
    assert sum(counts.values()) == 200
    assert counts.keys() == FAULTS.keys()
    many = Counter(fault.name for fault in planned(Random(5), 200, 14))
    assert many["broker killed"] > 2 * counts["broker killed"]
    assert len(planned(Random(5), 15, 4)) == 15


def test_the_plan_of_work_follows_from_the_seed_and_has_every_kind() -> None:
    first, again = (plan(5, 400) for _ in range(2))
    assert first == again
    assert {work.kind.name for work in first} == {name for name, kind in KINDS.items() if kind.weight}
    assert len(first) == 400


def test_a_fault_counts_from_before_it_strikes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it breaks first may have been put right, elsewhere, before all of it is broken."""
    broken: list[float] = []

    def slowly(injector: Any) -> Applied:
        broken.append(time.time())
        time.sleep(0.05)
        return Applied("slowly", lasts=0.1)

    monkeypatch.setattr(storm_module, "planned", lambda *_: [Fault("slow", 1, slowly)])
    told = SimpleNamespace(runs=[], sent={})
    site: Any = SimpleNamespace(
        broker=SimpleNamespace(restarts=0), tick=lambda: None, ledger=SimpleNamespace(read=lambda: told)
    )
    storm = Storm(site, Random(1), 1, 0.0, lambda line: None)
    storm.rage()
    (struck,) = storm.struck
    assert struck.at <= broken[0]
    assert struck.until >= broken[0] + 0.15
