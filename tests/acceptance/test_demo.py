"""`make demo`, as a person runs it: every promise that it shows must have held."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WITHIN = 400

KEY_LINES = [
    "✔ the webhooks were not held up by the failing emails",
    "✔ one Slack message for the 12",
    "$ celery -A example_project.shop guardrails alerts ack",
    "--by ada --reason 'I am calling the provider'",
    "✔ the thread says who takes care of it: ada takes care of it until ",
    "✔ it grew in place",
    "✔ the import's bug has a message of its own",
    "✔ the emails used up their attempts: 12 x 4 attempts, attempts_exhausted",
    "✔ their delays grew",
    "✔ the jitter spread them",
    "✔ the bug died at once, without a retry: 1 attempt, permanent_error: ZeroDivisionError",
    "✔ more people are asked about the alert that nobody acknowledged, and no more about the other: 1 message about",
    "✔ the alert says what is overdue, and that its worker is to blame, not beat",
    "and no worker takes them",
    "✔ the letters read recovered: 12 recovered",
    "✔ the report runs again, and its alert is over: sales_report: overdue (production), over",
    "✔ worker and guardian stopped cleanly",
    "✔ all 12 emails arrived, each exactly once: 12 x arrived 1 x",
    "$ celery -A example_project.shop guardrails dlq requeue 'task:shop.onboarding_email state:dead' --reason",
]


def _demo(**environ: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("BROKER_URL", "FORCE_COLOR")}
    return subprocess.Popen(
        [sys.executable, "-m", "example_project.demo"],
        cwd=ROOT, env={**clean, "PYTHONUNBUFFERED": "1", **environ}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.timeout(WITHIN + 30)
def test_the_demo_keeps_every_promise_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with _demo(TMPDIR=str(tmp_path)) as demo:
        try:
            output, _ = demo.communicate(timeout=WITHIN)
        except subprocess.TimeoutExpired:
            demo.terminate()
            pytest.fail(demo.communicate()[0])

    assert demo.returncode == 0, output
    # long lines are wrapped for the terminal
    unwrapped = " ".join(output.split())
    assert [line for line in KEY_LINES if line not in unwrapped] == [], output
    assert "✘" not in output
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stops_every_process(tmp_path: Path) -> None:
    said = ""
    with _demo(TMPDIR=str(tmp_path)) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            said += line
            if "the worker is ready" in line:
                demo.send_signal(signal.SIGINT)
        assert demo.wait(timeout=40) == 130, said

    assert "every process that was started has ended" in said
    assert _still_running(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_dies_fails_the_demo_and_shows_its_log(tmp_path: Path) -> None:
    said, killed = "", False
    with _demo(TMPDIR=str(tmp_path)) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            said += line
            if "are in the queue" in line and not killed:
                [guardian] = [pid for pid, command in _running(tmp_path) if command.endswith(" guardian ")]
                os.kill(guardian, signal.SIGKILL)
                killed = True
        assert demo.wait(timeout=40) == 1, said

    assert "✘ the guardian ended by itself, with exit code -9" in said
    assert "guardian (exit code -9), the end of" in said
    assert "(exit code -15)" not in said
    assert "Traceback" not in said
    assert _still_running(tmp_path) == []


def _still_running(tmp_path: Path) -> list[str]:
    return [command for _, command in _running(tmp_path)]


def _running(tmp_path: Path) -> list[tuple[int, str]]:
    """The processes whose environment names this test's directory: their pids and command lines."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc to see other processes")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # a process that has ended but was not reaped has no command line
            command, environ = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if command and f"TMPDIR={tmp_path}\0".encode() in environ:
            found.append((int(process.name), command.replace(b"\0", b" ").decode(errors="replace")))
    return found
