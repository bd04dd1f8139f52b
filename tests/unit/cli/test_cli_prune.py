"""`dlq prune`: what would go, what went, who is asked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from celery_guardrails.cli.dlq import prune as module
from celery_guardrails.store.retention import KINDS
from tests.unit.cli.conftest import Shop, lines
from tests.unit.cli.deaths import DIED, dead


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A shop four months after its letters died."""
    monkeypatch.setattr(module.clock, "now", lambda: DIED + timedelta(days=120))
    shop = Shop(tmp_path, retention={})
    shop.archive(dead(1), dead(2))
    yield shop
    shop.close()


def test_a_dry_run_says_what_is_due_and_changes_nothing(later: Shop) -> None:
    result = later.run("dlq", "prune", "--dry-run")
    assert result.exit_code == 0
    assert [line.split() for line in lines(result.stdout)][:3] == [
        ["Kind", "Kept", "Due"], ["Dead", "letters", "90", "d", "2"], ["Recovered", "letters", "14", "d", "0"],
    ]  # fmt: skip
    assert result.stderr.startswith("Nothing was changed. To remove what is due: celery -A PROJ guardrails dlq prune")
    assert len(later.json("dlq", "list")) == 2


def test_what_is_due_goes_and_the_trail_says_who_did_it(later: Shop) -> None:
    done = later.json("dlq", "prune", "--yes", "--by", "ada")
    assert done["removed"] == dict.fromkeys(KINDS, 0) | {"dead": 2}
    assert later.json("dlq", "list") == []
    again = later.run("dlq", "prune")
    assert (again.exit_code, "Nothing has been kept for longer" in again.stderr) == (0, True)


def test_without_a_terminal_it_wants_yes(later: Shop) -> None:
    result = later.run("dlq", "prune")
    assert result.exit_code == 2
    assert "dlq prune --yes" in result.stderr
    assert len(later.json("dlq", "list")) == 2


def test_whoever_says_no_at_the_terminal_keeps_everything(later: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_attended", lambda: True)
    assert later.run("dlq", "prune").exit_code == 1
    assert len(later.json("dlq", "list")) == 2
