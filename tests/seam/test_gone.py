"""Every seam taken away, one at a time: the worker and its tasks run, and one warning says what is off."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from celery_guardrails.seams import GUARDS, SEAMS, Seam
from tests.harness import ROOT

NAMES = tuple(dict.fromkeys(seam.name for seam in SEAMS))

# Names that something else than the family goes by, too (a string, a keyword, a method of `set`): another name for them
# would break Celery itself. Of these the look for seams is made to find none.
UNRENAMED = {
    "add_task_queue", "append", "bind", "can_cache_declaration", "close", "connection_for_read", "discard", "default",
    "exception", "get_transport_cls", "info", "main", "on_readable", "pool", "pool_cls", "ready", "register", "reject",
    "timezone", "traceback", "worker",
    "__init__", "_keys", "CLASS_ID", "Close", "Flow", "FlowOk", "Message", "Pool", "Process", "QoS", "Request",
    "Strategy", "TaskPool",
}  # fmt: skip


def last(name: str) -> str:
    return name.replace(":", ".").rpartition(".")[2]


def is_renamed(name: str) -> bool:
    return last(name) not in UNRENAMED


def lacking(name: str) -> list[Seam]:
    """What is missing then: all of this name, where a release calls it something else."""
    return [seam for seam in SEAMS if (last(seam.name) == last(name) if is_renamed(name) else seam.name == name)]


@cache
def outcomes() -> dict[str, dict[str, Any]]:
    """A worker without each seam."""
    asked = [{"seam": name, "renamed": is_renamed(name)} for name in ("nothing", *NAMES)]
    lines = "".join(f"{json.dumps(each)}\n" for each in asked)
    done = subprocess.run(
        [sys.executable, "-m", "tests.seam.worker"], cwd=ROOT, input=lines, capture_output=True, text=True, timeout=1800
    )
    answers = done.stdout.splitlines()
    assert len(answers) == len(asked), done.stderr[-4000:]
    return {each["seam"]: json.loads(answer) for each, answer in zip(asked, answers, strict=True)}


def warnings(outcome: dict[str, Any]) -> list[str]:
    """What was said besides the death of the task that fails."""
    return [text for text in outcome["warnings"] if "is dead-lettered" not in text]


@pytest.mark.timeout(1800)
def test_a_worker_that_lacks_nothing_says_nothing() -> None:
    outcome = outcomes()["nothing"]
    assert (sorted(outcome["ran"]), outcome["letters"], outcome["error"], warnings(outcome)) == (
        ["bad", "good"], 1, None, [],
    )  # fmt: skip


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_without_a_seam_its_guard_is_off_and_the_worker_runs(name: str) -> None:
    outcome, gone = outcomes()[name], lacking(name)
    if any(guard.vital for seam in gone for guard in seam.guards):
        assert last(name) in outcome["error"], outcome
        assert "pip install 'celery" in outcome["error"]
        assert "Celery " in outcome["error"]
        assert outcome["ran"] == []
        return
    assert outcome["error"] is None
    assert sorted(outcome["ran"]) == ["bad", "good"]
    assert outcome["letters"] == 1
    (said,) = warnings(outcome)
    for seam in gone:
        assert f"{seam.name} is gone ({seam.use})" in said
        for guard in seam.guards:
            assert f"{guard.name}: off" in said
            assert guard.without in said
    assert "pip install 'celery" in said


def test_what_stands_in_the_list_is_clear() -> None:
    for seam in SEAMS:
        assert seam.use
        assert seam.guards
        assert seam.name.count(":") == 1
    for guard in GUARDS:
        assert guard.without.endswith(".")
    assert len(GUARDS) == len({guard.name for guard in GUARDS})
