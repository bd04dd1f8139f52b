"""The place that is broken: broker, workers, guardians, archive and spool, and the supervisor that restarts.

Owns the processes of one run. What is done to them is in `fault.py`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.brokers import ChaosBroker
from tests.chaos.ledger import Ledger
from tests.harness import Harness, Process
from tests.servers import is_alive, tail

__all__ = ["APP", "Place", "Site", "children", "end_group"]

APP = "tests.chaos.app"
_ORPHANS_END = 30.0
_FIRST_SECONDS = 8.0
_MANY_ACCIDENTS = 12
_STOP_BOUND = 25.0


@dataclass
class Place:
    """Where one worker or guardian is kept running.

    `due` is when it is started again (`None`: while it runs), `doomed` since when somebody has been ending it.
    """

    role: str
    process: Process
    started: float
    due: float | None = None
    doomed: float | None = None

    def is_ready(self) -> bool:
        """Whether a worker has said that it takes tasks."""
        return " ready." in self.process.log()

    def found_no_broker(self) -> bool:
        """Whether it is a worker that Celery has ended because its broker went while it started (`mingle`)."""
        gave_up = "Unrecoverable error: OperationalError" in self.process.log()
        return self.role == "worker" and gave_up and not self.is_ready()


class Site:
    """One run's processes.

    Args:
        folder: theirs: ledger, archive, spool and logs.
        broker: its server is running.
        rng: the pauses before restarts.
        workers: how many workers, of `concurrency` processes each.
        guardians: how many guardians.

    Attributes:
        accidents: what ended although nobody ended it, with the end of its log.
        overdue: how many did not end within 25 seconds of being asked, and were killed.
        brokerless: how many workers Celery ended at their start, as their broker went; they had taken nothing.
        store_away: whether the archive's folder is moved away just now.
    """

    def __init__(
        self,
        folder: Path,
        broker: ChaosBroker,
        rng: random.Random,
        workers: int = 3,
        concurrency: int = 3,
        guardians: int = 2,
    ) -> None:
        self.folder, self.broker = folder, broker
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.archive = folder / "store" / "archive.sqlite3"
        self.spool = folder / "spool"
        self.archive.parent.mkdir()
        self.accidents: list[str] = []
        self.store_away = False
        self.overdue = self.brokerless = 0
        self.harness = Harness(folder, {**broker.variables(), **self._variables()})
        self._rng, self._concurrency = rng, concurrency
        self._ended: list[tuple[float, Process]] = []
        roles = ["guardian"] * guardians + ["worker"] * workers
        self.places = [Place(role, self._start(role), time.monotonic()) for role in roles]
        self.submitter: Process | None = None

    def _variables(self) -> dict[str, str]:
        return {
            "CHAOS_LEDGER": str(self.ledger.path),
            "CHAOS_STORE": f"sqlite:///{self.archive}",
            "CHAOS_SPOOL": str(self.spool),
        }

    def wait_until_ready(self) -> None:
        """Wait until every worker takes tasks and every guardian has said its first words."""
        for place in self.places:
            place.process.wait_for_log("ready." if place.role == "worker" else "guardian started")

    def submit(self, seed: int, count: int, seconds: float) -> None:
        """Start the submitter."""
        arguments = ("-m", "tests.chaos.submitter", str(seed), str(count), str(seconds))
        self.submitter = self.harness.start_python(*arguments)

    def running(self, role: str) -> list[Place]:
        """The places of this role whose process runs and is not about to end; those just started are left alone."""
        now = time.monotonic()
        return [
            place
            for place in self.places
            if place.role == role and self._is_up(place) and now - place.started > _FIRST_SECONDS
        ]

    def _is_up(self, place: Place) -> bool:
        return place.due is None and place.doomed is None and place.process.is_running

    def tick(self) -> None:
        """Start again what has ended and whose pause is over; close what ended long ago."""
        now = time.monotonic()
        for place in self.places:
            if place.doomed is not None and now - place.doomed > _STOP_BOUND and place.process.is_running:
                self.overdue += 1  # as systemd does with one that does not end when it is asked
                end_group(place.process.pid, signal.SIGKILL)
                place.process.kill()
            if place.due is None and not place.process.is_running:
                # a guardian that finds no archive says so and ends, as its users expect
                if place.doomed is None and not (place.role == "guardian" and self.store_away):
                    self._note_accident(place)
                place.due = now + self._rng.uniform(0.0, 2.0) + (2.0 if place.doomed is None else 0.0)
            if place.due is not None and place.due <= now:
                self._ended.append((now + _ORPHANS_END, place.process))
                place.process, place.started, place.due, place.doomed = self._start(place.role), now, None, None
        while self._ended and self._ended[0][0] <= now:
            process = self._ended.pop(0)[1]
            process.close()
            self.harness.processes.remove(process)

    def _note_accident(self, place: Place) -> None:
        process = place.process
        if place.found_no_broker():
            self.brokerless += 1
            return
        if len(self.accidents) >= _MANY_ACCIDENTS:
            raise AssertionError("processes end by themselves again and again:\n" + "\n".join(self.accidents[-3:]))
        self.accidents.append(
            f"{time.time():.1f} {process.name} (pid {process.pid}) ended by itself ({process.returncode}):\n"
            f"{tail(process.log_path, 15)}"
        )

    def spooled(self) -> int:
        """How many files lie in the spool, or hold something in the journal: its workers have files for what comes."""
        files = [path for path in self.spool.rglob("*") if path.is_file()] if self.spool.is_dir() else []
        return sum(1 for path in files if path.name != "owner" and (path.suffix != ".entry" or _is_taken(path)))

    def close(self) -> None:
        """End every process."""
        self.harness.close()

    def _start(self, role: str) -> Process:
        if role == "guardian":
            return self.harness.guardian(APP)
        return self.harness.worker(APP, concurrency=self._concurrency, wait=False, alone=self._rng.random() < 0.5)


def _is_taken(entry: Path) -> bool:
    """Whether an entry of the journal holds a message."""
    with contextlib.suppress(OSError), entry.open("rb") as found:
        return found.read(1) not in (b"", b"F")
    return False


def children(pid: int) -> list[int]:
    """The living children of a process."""
    with contextlib.suppress(OSError):
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in listed if is_alive(int(child))]
    return []


def end_group(pid: int, number: int) -> None:
    """Signal a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
