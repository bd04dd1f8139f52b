"""Tasks that are acknowledged early, which a worker keeps in its journal: what the sync of the disk costs them.

`python -m bench.early` measures only this. The journal is in the system's directory for temporary files: where that is
in memory, a sync costs nothing, so name a disk by `TMPDIR`.
"""

from __future__ import annotations

import sys

from bench.endtoend import Drain, runs, worker
from bench.figure import Pair, alternate, spread
from tests.servers import RedisServer

__all__ = ["kept", "kept_or_not", "measure"]


def kept(ours: Drain, theirs: Drain, rounds: int = 9, count: int = 1000) -> Pair:
    """Tasks a second that are acknowledged early: guarded and kept in the journal, and plain."""
    return _pair("early tasks, in the journal", ours, theirs, "works", rounds, count)


def kept_or_not(ours: Drain, without: Drain, rounds: int = 9, count: int = 1000) -> Pair:
    """Tasks a second that are acknowledged early, both guarded: with the journal, and without."""
    return _pair("early tasks, with the journal and without", ours, without, "works_early", rounds, count)


def measure(server: RedisServer) -> list[Pair]:
    """Both, with workers of their own."""
    with (
        worker("guarded", server.fresh_url()) as ours,
        worker("guarded", server.fresh_url(), GUARDED_JOURNAL="off") as without,
        worker("plain", server.fresh_url()) as theirs,
    ):
        return [kept(ours, theirs), kept_or_not(ours, without)]


def _pair(name: str, ours: Drain, theirs: Drain, task: str, rounds: int, count: int) -> Pair:
    return Pair(name, *alternate(rounds, runs(ours, "works_early", count), runs(theirs, task, count)))


def main() -> int:
    """Measure and print."""
    server = RedisServer()
    server.start()
    try:
        for pair in measure(server):
            print(f"{pair.name}: {spread(pair.ours, 0)} and {spread(pair.theirs, 0)} tasks/s, ", end="")
            print(f"ratio {spread(pair.ratios(), 3)}")
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
