"""The demo's processes when Ctrl-C comes at the worst instant: while one is being started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from example_project import demo, stage
from example_project.stage import Stage

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
    """A process during whose start, when it runs already, somebody types Ctrl-C."""

    made: list[Interrupted] = []

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.made.append(self)
        demo._terminated(2, None)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> list[Interrupted]:
    monkeypatch.setattr(stage.subprocess, "Popen", Interrupted)
    monkeypatch.setattr(demo.signal, "setitimer", lambda *_: None)
    monkeypatch.setattr(Interrupted, "made", [])
    return Interrupted.made


def test_no_process_is_left_that_was_starting(interrupted: list[Interrupted], tmp_path: Path) -> None:
    with Stage(tmp_path, tmp_path, {}) as made:
        made.start("sleeper", SLEEPS)
    (process,) = interrupted
    assert process.returncode is not None


def test_no_command_is_left_that_was_starting(interrupted: list[Interrupted], tmp_path: Path) -> None:
    with Stage(tmp_path, tmp_path, {}) as made, pytest.raises(subprocess.TimeoutExpired):
        made.run(SLEEPS, {}, 0.1)
    (process,) = interrupted
    assert process.returncode is not None


def test_a_command_that_runs_is_stopped_with_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made, seen = Stage(tmp_path, tmp_path, {}), []

    class Stopped(subprocess.Popen):  # type: ignore[type-arg]
        def communicate(self, *args: Any, **options: Any) -> Any:
            seen.append(self)
            if len(seen) == 1:
                raise KeyboardInterrupt
            return super().communicate(*args, **options)

    monkeypatch.setattr(stage.subprocess, "Popen", Stopped)
    with made, pytest.raises(KeyboardInterrupt):
        made.run(SLEEPS, {}, 30)
    assert seen[0].returncode is not None
