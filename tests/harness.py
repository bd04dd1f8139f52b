"""Real workers, guardians and commands as child processes, with their logs and an end that is sure.

`Harness` is what tests use, by the fixture of that name. It knows nothing of what the processes do.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from tests.fork_server import Forked, fork_server, suits, with_root
from tests.reaper import reaper
from tests.servers import tail, wait_until_stopped
from tests.waiting import wait_until

__all__ = ["ROOT", "Harness", "Process"]

ROOT = Path(__file__).resolve().parent.parent
_START_BOUND = 60.0
_IS_MEASURED = any(name.startswith("COVERAGE_PROCESS") for name in os.environ)
# a worker that waits for its neighbours at start costs each test a second, and there are no neighbours
_ALONE = ("--without-mingle", "--without-gossip")


class Process:
    """One child process that runs until it is told to stop; it leads a process group of its own.

    `stop` and `kill` signal its main process only, as an operator or the kernel would; `close` ends whatever is left
    of the group.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes] | Forked, log: Path) -> None:
        self.name = name
        self.log_path = log
        self._process = process
        reaper().watch(self.pid)

    @property
    def pid(self) -> int:
        """The main process's pid."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended: the exit code, a negative signal number, or `None` while it runs."""
        return self._process.poll()

    @property
    def is_running(self) -> bool:
        """Whether its main process runs."""
        return self.returncode is None

    def log(self) -> str:
        """All that it wrote to stdout and stderr so far."""
        return self.log_path.read_text("utf-8", errors="replace")

    def wait_for_log(self, text: str, bound: float = _START_BOUND) -> None:
        """Wait until its log has `text`.

        Raises:
            AssertionError: it ended before, or the bound (seconds) passed; the message has the tail of the log.
        """

        def said() -> bool:
            ended = not self.is_running  # asked first: what it said last counts
            if text in self.log():
                return True
            if ended:
                raise AssertionError(f"{self.name} ended ({self.returncode}) before {text!r}:\n{tail(self.log_path)}")
            return False

        wait_until(said, bound, lambda: f"{text!r} in the log of {self.name}, which ends:\n{tail(self.log_path)}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process; one that has ended is left alone. After SIGSTOP it has stopped."""
        self._process.send_signal(number)
        if number == signal.SIGSTOP:
            wait_until_stopped(self.pid)

    def wait(self, bound: float = 30.0) -> int:
        """Wait until it ends by itself, and return its exit code.

        Raises:
            AssertionError: it still runs after `bound` seconds.
        """
        try:
            return self._process.wait(bound)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {bound:g} s:\n{tail(self.log_path)}") from None

    def stop(self, bound: float = 30.0) -> int:
        """Ask it to end by SIGTERM and return its exit code.

        Raises:
            AssertionError: it still runs after `bound` seconds.
        """
        self.signal(signal.SIGTERM)
        return self.wait(bound)

    def kill(self) -> None:
        """End the main process by SIGKILL, as the kernel does when memory is short."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def close(self, bound: float = 15.0) -> None:
        """End what is left of it and of its group, by SIGKILL.

        Where coverage is measured it is asked by SIGTERM first, and has `bound` seconds: it writes its figures then.
        """
        if _IS_MEASURED and self.is_running:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(bound)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        reaper().forget(self.pid)


class Harness:
    """Starts processes that share a folder and an environment, and ends them all.

    Args:
        folder: their working directory and the place of their logs.
        environment: variables for every process, on top of this process's own. Tests may add to it.
        anew: start an interpreter for each process, where a fork of one that has read Celery would do as well.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None, *, anew: bool = False) -> None:
        self.folder = folder
        self.anew = anew
        self.environment: dict[str, str] = dict(environment or {})
        self.processes: list[Process] = []
        self._number = itertools.count(1)

    def worker(
        self,
        app: str,
        *options: str,
        pool: str = "prefork",
        concurrency: int = 2,
        wait: bool = True,
        alone: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start `celery -A APP worker` and wait until it takes tasks.

        Args:
            app: the module, such as `"tests.apps.plain"`.
            options: further options of the worker, such as `"-Q", "mail"` or `"--guardian"`.
            pool: prefork, threads, solo or gevent.
            concurrency: processes, threads or greenlets.
            wait: `False` returns at once, for a worker that is not meant to come up.
            alone: `False` has it look for its neighbours, as a worker does by default; it takes a second.
            env: further variables, for this process only.
        """
        name = f"w{uuid.uuid4().hex[:8]}@localhost"
        size = ("-P", pool, "-c", str(concurrency))
        first = (*size, *_ALONE) if alone else size
        process = self.start(app, "worker", "-l", "INFO", "-n", name, *first, *options, env=env)
        if wait:
            process.wait_for_log(f"{name} ready.")
        return process

    def guardian(
        self, app: str, *options: str, ready: str | None = None, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start `celery -A APP guardian` and wait until its log has `ready` (`None`: do not wait)."""
        process = self.start(app, "guardian", *options, env=env)
        if ready is not None:
            process.wait_for_log(ready)
        return process

    def start(self, app: str, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """Start any `celery -A APP ...` that runs until it is told to stop."""
        label, log = self._place(arguments[0])
        return self._kept(Process(label, self._start(["-A", app, *arguments], self._variables(env), log, log), log))

    def start_python(self, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """Start this Python with any arguments, for what runs until it is told to stop: `-m`, a module's name, ..."""
        label, log = self._place(arguments[1])
        return self._kept(Process(label, self._popen([sys.executable, *arguments], self._variables(env), log), log))

    def run(
        self, app: str, *arguments: str, bound: float = 60.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a `celery -A APP ...` that ends by itself; gives `returncode`, `stdout` and `stderr`.

        Raises:
            subprocess.TimeoutExpired: it ran for more than `bound` seconds, and was killed.
        """
        variables, words = self._variables(env), ["-A", app, *arguments]
        if not self._can_fork(words, variables):
            return self.run_python("-m", "celery", *words, bound=bound, env=env)
        with tempfile.TemporaryDirectory(prefix="guardrails-run-") as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            running = self._start(words, variables, out, err)
            reaper().watch(running.pid)
            try:
                code = running.wait(bound)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                running.wait()
                reaper().forget(running.pid)
            return subprocess.CompletedProcess(["celery", *words], code, out.read_text("utf-8"), err.read_text("utf-8"))

    def run_python(
        self, *arguments: str, bound: float = 60.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run this Python with any arguments, in the same folder and environment."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self._variables(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=bound,
        )

    def log_tails(self) -> str:
        """The ends of all logs, for a failure's report."""
        return "\n".join(f"--- {process.name}\n{tail(process.log_path)}" for process in self.processes)

    def close(self) -> None:
        """End every process that it started."""
        for process in self.processes:  # all at once, then one by one: warm shutdowns take their time side by side
            if _IS_MEASURED and process.is_running:
                process.signal(signal.SIGTERM)
        for process in self.processes:
            process.close()

    def _place(self, name: str) -> tuple[str, Path]:
        label = f"{next(self._number):02}-{name}"
        return label, self.folder / f"{label}.log"

    def _kept(self, process: Process) -> Process:
        self.processes.append(process)
        return process

    def _start(
        self, arguments: list[str], environment: Mapping[str, str], out: Path, err: Path
    ) -> subprocess.Popen[bytes] | Forked:
        if self._can_fork(arguments, environment):
            return fork_server().start(arguments, environment, self.folder, out, err)
        return self._popen([sys.executable, "-m", "celery", *arguments], environment, out)

    def _popen(self, command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _can_fork(self, arguments: list[str], environment: Mapping[str, str]) -> bool:
        return not (self.anew or _IS_MEASURED) and suits(arguments, environment, fork_server().environment)

    def _variables(self, env: Mapping[str, str] | None) -> dict[str, str]:
        return {**with_root(os.environ), **self.environment, **(env or {})}
