"""The sharing application of one test, with its archive as its users see it: by the commands."""

from __future__ import annotations

import json
from typing import Any

from tests.guarded import Guarded
from tests.waiting import wait_until

__all__ = ["Sharing"]

APP = "tests.apps.sharing"


class Sharing(Guarded):
    """The guarded application with several works under one id, see `tests/apps/sharing.py`."""

    def archived(self, count: int) -> dict[str, dict[str, Any]]:
        """Archive what waits until there are so many letters; gives all of them by id."""
        found: list[dict[str, Any]] = []

        def taken() -> bool:
            self._run("guardian", "--once")
            found[:] = json.loads(self._run("guardrails", "dlq", "list", "--json", "--limit", "100"))
            return len(found) >= count

        wait_until(taken, 120, lambda: f"{count} letters, there are {found}")
        return {letter["id"]: letter for letter in found}

    def show(self, id: str) -> dict[str, Any]:
        """What `dlq show` says of a letter."""
        shown: dict[str, Any] = json.loads(self._run("guardrails", "dlq", "show", id, "--json"))
        return shown

    def requeue(self, id: str) -> None:
        """Put a letter back."""
        self._run("guardrails", "dlq", "requeue", id, "--reason", "mended", "--yes", "--json")

    def wait_for_state(self, id: str, state: str) -> dict[str, Any]:
        """Archive what waits until a letter has this state; gives what `dlq show` says of it."""

        def reached() -> dict[str, Any] | None:
            self._run("guardian", "--once")
            shown = self.show(id)
            return shown if shown["state"] == state else None

        return wait_until(reached, 120, f"{id} to be {state}")

    def _run(self, *arguments: str) -> str:
        done = self.harness.run(APP, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout
