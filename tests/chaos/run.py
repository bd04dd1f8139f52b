"""One chaos run: set up, submit while the storm rages, let everything drain, balance the books.

Owns the order of things and the drain. The pieces are in the modules beside it.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from tests.chaos.archive import archived, letters
from tests.chaos.balance import Books, balance
from tests.chaos.brokers import ChaosBroker
from tests.chaos.report import Result
from tests.chaos.site import APP, Site
from tests.chaos.storm import Storm

__all__ = ["run"]

_STILL = 60.0
_QUIET_CHECKS = 3
_DISCARDED = 5


def run(
    broker: ChaosBroker,
    folder: Path,
    *,
    tasks: int,
    faults: int,
    seed: int,
    gap: float,
    say: Callable[[str], None],
    workers: int = 3,
) -> Result:
    """Run on one broker, whose server runs, and return the result; every process is ended.

    Args:
        broker: the broker.
        folder: for everything that is written; empty.
        tasks: how many tasks are submitted.
        faults: how many faults are applied.
        seed: of the plan of the work and of the faults.
        gap: seconds between two faults, on average.
        say: called with lines of progress.
        workers: how many workers, of three processes each.

    Raises:
        AssertionError: processes end by themselves again and again.
    """
    site = Site(folder, broker, random.Random(seed + 1), workers=workers)
    try:
        site.wait_until_ready()
        site.submit(seed, tasks, faults * gap)
        storm = Storm(site, random.Random(seed + 2), faults, gap, say)
        return _weathered(site, storm, seed, say)
    finally:
        site.close()


def _weathered(site: Site, storm: Storm, seed: int, say: Callable[[str], None]) -> Result:
    started = time.monotonic()
    storm.rage()
    calm = time.monotonic()
    (site.folder / "faults.json").write_text(json.dumps([asdict(fault) for fault in storm.struck], indent=1))
    say("the storm is over, draining")
    left = _drain(site, storm, say)
    drained = time.monotonic() - calm
    _discard(site)
    books = _books(site, storm, left)
    (site.folder / "findings.txt").write_text("\n".join(map(str, books.findings)))
    told = site.ledger.read()
    return Result(
        broker=site.broker.name,
        seed=seed,
        books=books,
        struck=storm.struck,
        seconds=time.monotonic() - started,
        drained=drained,
        accidents=site.accidents,
        overdue=site.overdue,
        brokerless=site.brokerless,
        confirmed=sum(sent.sure for sent in told.sent.values()),
        runs=len(told.runs),
    )


def _drain(site: Site, storm: Storm, say: Callable[[str], None]) -> Mapping[str, int]:
    """Wait until nothing lies anywhere, or nothing has moved for a minute; returns what still lies where."""
    last, since, quiet = "", time.monotonic(), 0
    while True:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            site.tick()
            time.sleep(0.1)
        left = _left(site)
        state = f"{site.ledger.size()} {archived(site.archive)} {sorted(left.items())}"
        if state != last:
            last, since = state, time.monotonic()
        submitted = site.submitter is None or not site.submitter.is_running
        quiet = quiet + 1 if submitted and not left and not _open_ends(site, storm) else 0
        still = time.monotonic() - since
        if quiet >= _QUIET_CHECKS or still > _STILL:
            return left
        if still > 10 and int(still) % 10 < 2:
            say(f"nothing moved for {still:.0f} s: {dict(left)}")


def _left(site: Site) -> dict[str, int]:
    left = dict(site.broker.messages())
    if spooled := site.spooled():
        left["the spool"] = spooled
    return left


def _open_ends(site: Site, storm: Storm) -> int:
    """How many ids have no end yet: a body may be running whose message nobody counts, because it is acked early."""
    return sum(1 for finding in _books(site, storm, {}).findings if finding.what == "missing")


def _books(site: Site, storm: Storm, left: Mapping[str, int]) -> Books:
    dead = letters(site.archive) if archived(site.archive) else []
    return balance(site.ledger.read(), dead, storm.struck, left)


def _discard(site: Site) -> None:
    """Discard a few letters as a person would, so that the books have some."""
    chosen = [letter.id for letter in letters(site.archive) if letter.state == "dead"][:_DISCARDED]
    if chosen:
        arguments = ("guardrails", "dlq", "discard", *chosen, "--reason", "chaos", "--by", "chaos", "--yes")
        done = site.harness.run(APP, *arguments)
        assert done.returncode == 0, done.stderr
