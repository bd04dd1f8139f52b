"""The faults: what is broken, how, and how it is mended. Each is real: a signal, a lock, a file in the way.

Owns `FAULTS`. A fault that cannot be applied now (nothing to kill, the broker is down already) returns `None`, and
does not count. When each comes is `storm.py`'s business.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from tests.chaos.site import Place, Site, children, end_group

__all__ = ["FAULTS", "Applied", "Fault", "Injector"]


@dataclass(frozen=True)
class Applied:
    """A fault that was applied.

    Args:
        effect: what it did, in words.
        target: the pid of the worker that it hit; `None` when it hit everybody or no worker.
        lasts: seconds until `mend` is called, or for which it goes on by itself.
        mend: puts it right again.
    """

    effect: str
    target: int | None = None
    lasts: float = 0.0
    mend: Callable[[], None] | None = None


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Args:
        name: as the table shows it.
        weight: how many of a hundred; -1: as many as the broker's `restarts`.
        apply: does it.
        repeats: whether it explains that a body ran twice.
    """

    name: str
    weight: int
    apply: Callable[[Injector], Applied | None]
    repeats: bool = True


class Injector:
    """Applies faults to a site.

    Args:
        site: what is broken.
        rng: whom and for how long.
    """

    def __init__(self, site: Site, rng: Random) -> None:
        self.site, self.rng = site, rng
        self.broker_hurt = self.store_hurt = self.spool_hurt = False

    def pick(self, role: str) -> Place | None:
        """Somebody of this role who runs, if there is any."""
        running = self.site.running(role)
        return self.rng.choice(running) if running else None

    def kill_child(self) -> Applied | None:
        """SIGKILL to one process of a worker's pool."""
        place = self.pick("worker")
        # one that misses a child before it takes its first task gives up at once: that is Celery's own
        pids = children(place.process.pid) if place and place.is_ready() else []
        if place is None or not pids:
            return None
        pid = self.rng.choice(pids)
        os.kill(pid, signal.SIGKILL)
        return Applied(f"child {pid} of worker {place.process.pid}", place.process.pid)

    def kill_worker(self) -> Applied | None:
        """SIGKILL to a worker's main process; its children end when they notice."""
        return self._end("worker", signal.SIGKILL)

    def kill_machine(self) -> Applied | None:
        """SIGKILL to a worker and its children at once, as when their machine is gone."""
        place = self.pick("worker")
        if place is None:
            return None
        place.doomed = time.monotonic()
        end_group(place.process.pid, signal.SIGKILL)
        return Applied(f"worker {place.process.pid} and its children", place.process.pid)

    def warm_shutdown(self) -> Applied | None:
        """SIGTERM to a worker."""
        return self._end("worker", signal.SIGTERM)

    def cold_shutdown(self) -> Applied | None:
        """SIGQUIT to a worker."""
        return self._end("worker", signal.SIGQUIT)

    def kill_guardian(self) -> Applied | None:
        """SIGKILL to a guardian."""
        return self._end("guardian", signal.SIGKILL)

    def _end(self, role: str, number: signal.Signals) -> Applied | None:
        place = self.pick(role)
        if place is None:
            return None
        place.doomed = time.monotonic()
        place.process.signal(number)
        return Applied(
            f"{role} {place.process.pid}", place.process.pid, lasts=0.0 if number == signal.SIGKILL else 25.0
        )

    def pause_worker(self) -> Applied | None:
        """SIGSTOP to a worker's main process, at times longer than Redis's visibility timeout."""
        place = self.pick("worker")
        if place is None:
            return None
        process = place.process  # the place may get another one before it is mended
        process.signal(signal.SIGSTOP)
        seconds = self.rng.uniform(1.0, 8.0)
        effect = f"worker {process.pid} for {seconds:.1f} s"
        return Applied(effect, process.pid, seconds, lambda: process.signal(signal.SIGCONT))

    def pause_broker(self) -> Applied | None:
        """SIGSTOP to the broker: connections stay open, nothing answers."""
        return self._hurt_broker(self.site.broker.server.pause, self.rng.uniform(0.5, 4.0), "paused")

    def stop_broker(self) -> Applied | None:
        """SIGTERM to the broker; started again after a while with its data."""
        return self._hurt_broker(self.site.broker.server.stop, self.rng.uniform(0.5, 4.0), "stopped")

    def kill_broker(self) -> Applied | None:
        """SIGKILL to the broker; started again after a while with its data."""
        return self._hurt_broker(self.site.broker.server.kill, self.rng.uniform(0.5, 4.0), "killed")

    def _hurt_broker(self, hurt: Callable[[], None], seconds: float, verb: str) -> Applied | None:
        if self.broker_hurt:
            return None
        self.broker_hurt = True
        hurt()

        def mend() -> None:
            self.site.broker.server.start()
            self.broker_hurt = False

        return Applied(f"{verb} for {seconds:.1f} s", None, seconds, mend)

    def cut_connections(self) -> Applied | None:
        """Close every client's connection from the broker's side."""
        if self.broker_hurt:
            return None
        cut = self.site.broker.cut_connections()
        return Applied("all connections" if cut < 0 else f"{cut} connections") if cut else None

    def lock_store(self) -> Applied | None:
        """Hold the archive's write lock, at times longer than a guardian waits for it."""
        if self.store_hurt or not self.site.archive.exists():
            return None
        connection = sqlite3.connect(self.site.archive, isolation_level=None, timeout=2.0, check_same_thread=False)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            connection.close()
            return None
        self.store_hurt = True

        def mend() -> None:
            connection.rollback()
            connection.close()
            self.store_hurt = False

        seconds = self.rng.uniform(1.0, 9.0)
        return Applied(f"locked for {seconds:.1f} s", None, seconds, mend)

    def move_store(self) -> Applied | None:
        """Move the archive's folder away, as a volume that is gone; processes that have it open keep it."""
        folder = self.site.archive.parent
        away = folder.with_name("store.away")
        if self.store_hurt or not folder.exists():
            return None
        folder.rename(away)
        self.store_hurt = self.site.store_away = True

        def mend() -> None:
            away.rename(folder)
            self.site.tick()  # who ended for want of it did not end by itself
            self.store_hurt = self.site.store_away = False

        seconds = self.rng.uniform(1.0, 5.0)
        return Applied(f"moved away for {seconds:.1f} s", None, seconds, mend)

    def fill_spool(self) -> Applied | None:
        """Fill the spool to its limit while the broker does not answer."""
        return self._without_spool(self._filled, "full")

    def block_spool(self) -> Applied | None:
        """Put a file in the spool directory's place while the broker does not answer: nobody, not even root, writes."""
        return self._without_spool(self._blocked, "not writable")

    def _without_spool(self, hurt: Callable[[], Callable[[], None]], word: str) -> Applied | None:
        if self.broker_hurt or self.spool_hurt:
            return None
        mend_spool = hurt()
        seconds = self.rng.uniform(3.0, 5.0)
        paused = self._hurt_broker(self.site.broker.server.pause, seconds, "paused")
        assert paused is not None
        assert paused.mend is not None
        mend_broker = paused.mend
        self.spool_hurt = True

        def mend() -> None:
            mend_broker()
            mend_spool()
            self.spool_hurt = False

        return Applied(f"spool {word}, broker paused for {seconds:.1f} s", None, seconds, mend)

    def _filled(self) -> Callable[[], None]:
        self.site.spool.mkdir(exist_ok=True)
        filler = self.site.spool / "filler.tmp"
        with filler.open("wb") as file:
            file.truncate(1 << 30)  # sparse: it takes no disk
        return lambda: filler.unlink(missing_ok=True)

    def _blocked(self) -> Callable[[], None]:
        spool, away = self.site.spool, self.site.spool.with_name("spool.away")
        spool.mkdir(exist_ok=True)
        spool.rename(away)
        spool.touch()

        def mend() -> None:
            spool.unlink()
            away.rename(spool)

        return mend


_ALL = (
    Fault("pool child killed", 26, Injector.kill_child),
    Fault("worker killed", 11, Injector.kill_worker),
    Fault("worker and its children killed", 6, Injector.kill_machine),
    Fault("worker paused", 4, Injector.pause_worker),
    Fault("warm shutdown", 6, Injector.warm_shutdown),
    Fault("cold shutdown", 6, Injector.cold_shutdown),
    Fault("guardian killed", 9, Injector.kill_guardian, repeats=False),
    Fault("broker paused", 8, Injector.pause_broker),
    Fault("broker stopped", -1, Injector.stop_broker),
    Fault("broker killed", -1, Injector.kill_broker),
    Fault("connections cut", 6, Injector.cut_connections),
    Fault("store locked", 5, Injector.lock_store, repeats=False),
    Fault("store moved away", 3, Injector.move_store, repeats=False),
    Fault("spool full, broker paused", 4, Injector.fill_spool),
    Fault("spool not writable, broker paused", 4, Injector.block_spool),
)

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _ALL}
"""Every kind of fault by its name."""
