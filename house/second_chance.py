"""Runs pytest, and gives the tests that failed one second chance: alone, one after the other, in one process.

`python house/second_chance.py [PYTEST ARGUMENTS]`. Where all of them pass then, the run ends well, and names each under
FLAKY at its very end, with both outcomes. More than three of them, one that fails again (or is skipped), or a run that
did not get to its end, fails. What was flaky here before is counted in the file `.flaky`: a test that is flaky twice is
to be mended before anything else.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["MOST", "Outcome", "main"]

MOST = 3
"""So many tests may be flaky in one run; more are no accident."""

_FAILED = 1
"""pytest's exit code for tests that failed, in a run that got to its end."""
_UNFINISHED = 3
"""pytest's exit code for an error of its own."""
_RECORD = "--record"
_HISTORY = Path(".flaky")


@dataclass(frozen=True)
class Outcome:
    """How one test ended: `word` is pytest's (`failed`, `error`, `passed`, `skipped`), `why` the line that says why."""

    test: str
    word: str
    why: str = ""
    again: bool = True
    """Whether it can be run once more by its name: what fails while pytest collects the tests cannot."""

    def __str__(self) -> str:
        return f"{self.word}: {self.why}" if self.why else self.word


@dataclass(frozen=True)
class Run:
    """One run of pytest: its exit code, the paths that it was given, and how each test ended."""

    code: int
    paths: tuple[str, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


class Recorder:
    """A pytest plugin that writes how each test ended to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcomes: dict[str, Outcome] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest for the setup, the body and the teardown of each test."""
        ended = self._outcomes.get(report.nodeid)
        if report.failed:
            word = "failed" if report.when == "call" else "error"
            self._outcomes[report.nodeid] = Outcome(report.nodeid, word, _why(report))
        elif ended is None and (report.skipped or report.when == "call"):
            self._outcomes[report.nodeid] = Outcome(report.nodeid, report.outcome)

    def pytest_collectreport(self, report: Any) -> None:
        """Called by pytest for each file of tests that it reads."""
        if report.failed:
            self._outcomes[report.nodeid] = Outcome(report.nodeid, "error", _why(report), again=False)

    def pytest_sessionfinish(self, session: Any) -> None:
        """Called by pytest at its end."""
        outcomes = [asdict(outcome) for outcome in self._outcomes.values()]
        record = {"paths": session.config.option.file_or_dir, "outcomes": outcomes}
        self._path.write_text(json.dumps(record), "utf-8")


def _why(report: Any) -> str:
    """The last line of what pytest says of the failure, which names the error."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message if crash is not None else report.longrepr).strip()
    return text.splitlines()[0 if crash is not None else -1][:200] if text else ""


def main(arguments: Sequence[str]) -> int:
    """Run pytest with these arguments; returns the exit code."""
    if arguments[:1] == [_RECORD]:
        return _recorded(Path(arguments[1]), arguments[2:])
    first = _run(arguments)
    if first.code != _FAILED:
        return first.code
    failed = [outcome for outcome in first.outcomes if outcome.word in ("failed", "error")]
    if len(failed) > MOST or not failed or not all(outcome.again for outcome in failed):
        print(f"\n{len(failed)} tests failed: at most {MOST} get a second chance", flush=True)
        return first.code
    print(f"\nsecond chance, alone and in one process: {', '.join(outcome.test for outcome in failed)}", flush=True)
    options = [argument for argument in arguments if argument not in first.paths]
    second = _run([*options, "-n", "0", *(outcome.test for outcome in failed)])
    found = {outcome.test: outcome for outcome in second.outcomes}
    seconds = [found.get(outcome.test, Outcome(outcome.test, "not run")) for outcome in failed]
    flaky = second.code == 0 and all(outcome.word == "passed" for outcome in seconds)
    print(f"\n{'FLAKY' if flaky else 'FAILED TWICE, OR NOT RUN AGAIN'}")
    counts = _counted(outcome.test for outcome in failed) if flaky else {}
    for once, then in zip(failed, seconds, strict=True):
        print(f"  {once.test}\n    in the run of all tests: {once}\n    alone: {then}")
        if counts.get(once.test, 0) > 1:
            print(f"    flaky here {counts[once.test]} times by now: mend it before anything else")
    sys.stdout.flush()
    return 0 if flaky else first.code


def _recorded(path: Path, arguments: Sequence[str]) -> int:
    import pytest  # only here: whoever starts this needs no pytest

    sys.path[0] = str(Path.cwd())  # as `python -m pytest` does
    return int(pytest.main(list(arguments), plugins=[Recorder(path)]))


def _run(arguments: Sequence[str]) -> Run:
    with tempfile.TemporaryDirectory(prefix="second-chance-") as folder:
        path = Path(folder) / "record.json"
        code = subprocess.run([sys.executable, __file__, _RECORD, str(path), *arguments]).returncode
        if not path.exists():  # it was killed, or never began
            return Run(code or _UNFINISHED)
        record = json.loads(path.read_text("utf-8"))
        return Run(code, tuple(record["paths"]), tuple(Outcome(**entry) for entry in record["outcomes"]))


def _counted(tests: Iterable[str]) -> dict[str, int]:
    """How often each test was flaky in this checkout, this time included."""
    try:
        counts: dict[str, int] = json.loads(_HISTORY.read_text("utf-8"))
    except (OSError, ValueError):
        counts = {}
    for test in tests:
        counts[test] = counts.get(test, 0) + 1
    _HISTORY.write_text(json.dumps(counts, indent=1) + "\n", "utf-8")
    return counts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
