"""The quick start, played with real processes and a stand-in for Slack: what Slack was sent, and what a command shows.

The broker is a SQLite file, so that no server is needed; how long an alert waits is shortened. It must not know what
becomes of what it returns.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery_guardrails.testing import SlackStandIn

__all__ = ["Shown", "play", "quick_start_of"]

BROKER = "redis://localhost:6379/0"
HOME = "/srv/shop"
"""Stands for the folder where the scene was played."""
LETTERS = 4
_WAITS = '"alerts": {"group_wait": "5s", "group_wait_urgent": "5s", "edit_interval": "1s"}, "slack"'
_PUBLISH = "from shop import send_receipt as s; [s.delay(4711 + n, customer_id=42 + n % 3) for n in range(4)]"
_BOUND = 120.0


@dataclass(frozen=True)
class Shown:
    """What a person sees.

    Args:
        blocks: the layout of the one message in Slack.
        channel: the channel that it is in.
        command: what was typed, as it would be at home.
        output: what the command wrote, with the escapes of a terminal of 100 columns.
    """

    blocks: list[dict[str, Any]]
    channel: str
    command: str
    output: str


def quick_start_of(page: Path) -> str:
    """The file `shop.py` that a page of the documentation has its readers write."""
    return re.findall(r"```python\n(# shop\.py\n.*?)```", page.read_text("utf-8"), re.DOTALL)[0]


def play(code: str, folder: Path) -> Shown:
    """Let four tasks of the quick start die, and look at what people get to see.

    Args:
        code: `shop.py`, as the quick start has it.
        folder: an empty folder to play in.

    Raises:
        TimeoutError: the four have not been announced within two minutes.
    """
    assert BROKER in code
    assert '"slack"' in code
    (folder / "shop.py").write_text(
        code.replace(BROKER, "sqla+sqlite:///broker.sqlite3").replace('"slack"', _WAITS, 1), "utf-8"
    )
    with SlackStandIn() as slack:
        environment = _environment(slack)
        worker = _start(folder, environment)
        try:
            _run(folder, environment, sys.executable, "-c", _PUBLISH)
            _wait_until(lambda: _announced(slack) == LETTERS, worker)
            letters = json.loads(_guardrails(folder, environment, "dlq", "list", "--json"))
            words = ("dlq", "show", letters[0]["id"][:8])
            output = _guardrails(folder, environment, *words)
            (message,) = slack.in_channel()
            return Shown(
                message.blocks, "#alerts", f"celery -A shop guardrails {' '.join(words)}", _at_home(output, folder)
            )
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)


def _environment(slack: SlackStandIn) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GUARDRAILS_")}
    return {
        **ours,
        "GUARDRAILS_SLACK_BASE_URL": slack.base_url,
        "GUARDRAILS_SLACK_TOKEN": "xoxb-picture",
        "COLUMNS": "100",
        "FORCE_COLOR": "1",
    }


def _start(folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    words = ("-m", "celery", "-A", "shop", "worker", "--guardian", "--concurrency=2", "--hostname=worker@shop-1")
    with (folder / "worker.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *words], cwd=folder, env=dict(environment), stdout=log, stderr=subprocess.STDOUT
        )


def _run(folder: Path, environment: Mapping[str, str], *words: str) -> str:
    done = subprocess.run(words, cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=_BOUND)
    if done.returncode:
        raise RuntimeError(f"{words} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def _guardrails(folder: Path, environment: Mapping[str, str], *words: str) -> str:
    return _run(folder, environment, sys.executable, "-m", "celery", "-A", "shop", "guardrails", *words)


def _announced(slack: SlackStandIn) -> int:
    """How many letters the messages name in all."""
    found = [re.search(r": (\d+) dead letters", message.text) for message in slack.in_channel()]
    return sum(int(each[1]) for each in found if each)


def _wait_until(met: Callable[[], bool], worker: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _BOUND
    while not met():
        if time.monotonic() > end or worker.poll() is not None:
            raise TimeoutError("Slack was not told of the four dead letters; see worker.log")
        time.sleep(0.2)


def _at_home(output: str, folder: Path) -> str:
    """Without the folder in which the scene was played."""
    return output.replace(str(folder.resolve()), HOME).replace(str(folder), HOME)
