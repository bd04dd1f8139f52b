"""Somebody who pastes what a page says, block by block, line by line, with real processes.

A reader has patience: a look at the archive comes when there is something in it, a question is answered with yes. What
the page takes for granted (a broker at its usual port) stands elsewhere here.
"""

from __future__ import annotations

import json
import re
import shlex
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.document.block import Block, blocks_of
from tests.document.command import commands_in, console_lines
from tests.document.program import FILE
from tests.harness import Harness, Process
from tests.waiting import wait_until

__all__ = ["Reader"]

# what a test has done already, and what the README says to those who have a clone
_THERE_ALREADY = frozenset({"pip", "createdb", "wait", "make"})
_BOUND = 180.0
"""Seconds that one line may take, however busy the machine is."""
_READY = {"worker": " ready.", "guardian": "archive"}
_EXAMPLE_ID = re.compile(r"[0-9a-f]{4}")


class Reader:
    """Somebody who pastes what one page says, up to the point where another project begins.

    Args:
        page: the page's path.
        harness: starts the processes; its folder is where the reader works.
        places: what stands in place of the page's own addresses.
    """

    def __init__(self, page: str, harness: Harness, places: Mapping[str, str]) -> None:
        self.harness = harness
        self.places = places
        self.blocks = _first_project(list(blocks_of(page)))
        self.jobs: list[tuple[list[str], Process]] = []
        self.printed: list[tuple[list[str], str]] = []
        self.app = ""
        self.is_mended = False

    def read(self) -> None:
        """Paste the whole page."""
        for block in self.blocks:
            if block.kind == "python" and FILE.match(block.text):
                self._write(block.text)
            elif block.kind == "console":
                for _, line in console_lines(block.text):
                    for words in commands_in(self._here(line)):
                        self._type(words, in_background=line.split("#")[0].rstrip().endswith("&"))

    def output(self, *words: str) -> str:
        """What the first command that has these words printed."""
        return next(text for typed, text in self.printed if set(words) <= set(typed))

    def letters(self) -> list[dict[str, Any]]:
        """What is in the archive; nothing where there is none yet."""
        done = self.harness.run(self.app, "guardrails", "dlq", "list", "--json", bound=_BOUND)
        return list(json.loads(done.stdout)) if done.returncode == 0 else []

    def end(self) -> list[int]:
        """Stop what still runs, as a reader does at the end; gives the exit codes of workers and guardians."""
        return [process.stop() for words, process in self.jobs if process.is_running and "flask" not in words]

    def _here(self, text: str) -> str:
        for theirs, ours in self.places.items():
            text = text.replace(theirs, ours)
        return text

    def _write(self, text: str) -> None:
        named = FILE.match(text)
        assert named is not None
        path = self.harness.folder / named["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() + "\n" if named["append"] else ""
        self.is_mended = self.is_mended or (path.exists() and 'return "sent"' in text)
        path.write_text(before + self._here(text))

    def _type(self, words: list[str], in_background: bool) -> None:
        program, *arguments = words
        if program == "celery":
            self._celery(words, arguments[1], arguments[2:], in_background)
        elif program == "flask":
            self._start(words, self.harness.start_python("-m", "flask", *arguments))
        elif program == "django-admin":
            self._python(words, "-m", "django", *arguments)
        elif program == "python":
            self._python(words, *arguments)
        elif program == "kill":
            _, process = self.jobs[int(arguments[0].removeprefix("%")) - 1]
            assert process.stop() == 0
        elif program == "curl":
            self._curl(words)
        else:
            assert program in _THERE_ALREADY, shlex.join(words)

    def _celery(self, words: list[str], app: str, arguments: list[str], in_background: bool) -> None:
        self.app = app
        if in_background:
            self._start(words, self.harness.start(app, *arguments))
            return
        if "list" in arguments or "show" in arguments:
            found = wait_until(self.letters, _BOUND, "a letter is in the archive", every=0.3)
            arguments = [found[0]["id"][:8] if _EXAMPLE_ID.fullmatch(word) else word for word in arguments]
        if "requeue" in arguments:
            self._mend()
            arguments = [*arguments, "--yes"]
        done = self.harness.run(app, *arguments, bound=_BOUND)
        # what is wrong with the server of a test is not wrong with the page
        assert done.returncode == 0 or "doctor" in arguments, done
        self.printed.append((words, done.stdout))

    def _python(self, words: list[str], *arguments: str) -> None:
        done = self.harness.run_python(*arguments, bound=_BOUND)
        assert done.returncode == 0, done
        self.printed.append((words, done.stdout))

    def _start(self, words: list[str], process: Process) -> None:
        kind = next((kind for kind in _READY if kind in words), None)
        if kind == "worker" or kind == "guardian":
            process.wait_for_log(_READY[kind])
        else:
            process.wait_for_log("Running on")
        self.jobs.append((words, process))

    def _mend(self) -> None:
        """Where the page says only that the task is to be mended: do it, and restart the worker."""
        if self.is_mended:
            return
        for path in Path(self.harness.folder).rglob("*.py"):
            text = path.read_text()
            path.write_text(re.sub(r"raise TimeoutError\(.*\)", 'return "sent"', text))
        for words, process in [job for job in self.jobs if "worker" in job[0] and job[1].is_running]:
            assert process.stop() == 0
            self._start(words, self.harness.start(words[2], *words[3:]))
        self.is_mended = True

    def _curl(self, words: Sequence[str]) -> None:
        method = words[words.index("-X") + 1] if "-X" in words else "GET"
        with urllib.request.urlopen(urllib.request.Request(words[-1], method=method), timeout=30) as answer:
            self.printed.append((list(words), answer.read().decode()))


def _first_project(blocks: Sequence[Block]) -> list[Block]:
    ends = [number for number, block in enumerate(blocks) if "project" in block.remarks]
    return list(blocks[: ends[0]] if ends else blocks)
