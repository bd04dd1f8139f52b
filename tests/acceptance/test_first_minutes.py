"""The quick starts on Redis, as they are written: each line that is run here stands on its page."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.conftest import Broker
from tests.document.block import blocks_of
from tests.document.command import console_lines
from tests.harness import Harness, Process
from tests.waiting import wait_until

REDIS = "redis://localhost:6379/0"
PAGES = ("README.md",)


class Reader:
    """Somebody who pastes what one page says.

    Args:
        page: the page's path.
        harness: starts the processes; its folder is where the reader works.
        broker_url: stands in place of the Redis that the page takes for granted.
    """

    def __init__(self, page: str, harness: Harness, broker_url: str) -> None:
        self.harness = harness
        blocks = list(blocks_of(page))
        self.code = next(block.text for block in blocks if block.text.startswith("# shop.py\n"))
        self.code = self.code.replace(REDIS, broker_url)
        consoles = [block.text for block in blocks if block.kind == "console"]
        self.lines = [shlex.split(line, comments=True) for text in consoles for _, line in console_lines(text)]

    def write(self, old: str = "", new: str = "") -> None:
        """Write `shop.py`, with one text in place of another."""
        assert old in self.code
        (self.harness.folder / "shop.py").write_text(self.code.replace(old, new) if old else self.code)

    def line(self, *words: str) -> list[str]:
        """The page's first line that has these words."""
        return next(line for line in self.lines if set(words) <= set(line))

    def celery(self, *words: str) -> tuple[str, str]:
        """Run the line that has these words to its end; gives what it printed on stdout and stderr."""
        line = self.line("celery", *words)
        done = self.harness.run(line[2], *line[3:], *(["--yes"] if "requeue" in line else []), bound=120)
        assert done.returncode == 0, done
        return done.stdout, done.stderr

    def worker(self) -> Process:
        """Start the worker, as in the background, and wait until it takes tasks."""
        line = self.line("celery", "worker", "&")
        started = self.harness.start(line[2], *line[3:-1])
        started.wait_for_log(" ready.")
        return started

    def states(self) -> list[str]:
        """How the letters in the archive stand."""
        done = self.harness.run("shop", "guardrails", "dlq", "list", "--json")
        return [letter["state"] for letter in json.loads(done.stdout)] if done.returncode == 0 else []


@pytest.mark.parametrize("page", PAGES)
def test_what_a_new_user_pastes_works(page: str, harness: Harness, redis_broker: Broker) -> None:
    reader = Reader(page, harness, redis_broker.url)
    reader.write()
    assert "1 task under guard" in reader.celery("check")[0]
    worker = reader.worker()
    python = reader.line("python")
    assert harness.run_python(*python[1:]).returncode == 0
    wait_until(lambda: reader.states() == ["dead"], 90, "the letter is in the archive", every=0.3)
    listed, _ = reader.celery("list")
    assert "shop.send_receipt" in listed
    assert "TimeoutError: the mail server does not answer" in listed
    assert reader.line("kill")[:2] == ["kill", "%1;"]
    assert worker.stop() == 0
    reader.write('raise TimeoutError("the mail server does not answer")', 'return "sent"')
    worker = reader.worker()
    requeued, _ = reader.celery("requeue")
    assert requeued.strip() == "Requeued 1 dead letter. 1 recovered."
    assert reader.states() == ["recovered"]
    assert worker.stop() == 0
