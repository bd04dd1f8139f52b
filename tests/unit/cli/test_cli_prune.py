"""`dlq prune`: what would go, what went, who is asked."""

from __future__ import annotations

import pytest

from celery_guardrails.cli.dlq import prune as module
from tests.unit.cli.conftest import Shop, lines
from tests.unit.cli.deaths import dead

MONTHS_LATER = "2026-07-01T00:00:00Z"


@pytest.fixture
def later(shop: Shop, time_machine_later: None) -> Shop:
    shop.archive(dead(1), dead(2))
    return shop


@pytest.fixture
def time_machine_later(monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import datetime

    monkeypatch.setattr(module.clock, "now", lambda: datetime.fromisoformat(MONTHS_LATER.replace("Z", "+00:00")))


def test_a_dry_run_says_what_is_due_and_changes_nothing(later: Shop) -> None:
    result = later.run("dlq", "prune", "--dry-run")
    assert result.exit_code == 0
    assert [line.split() for line in lines(result.stdout)][:3] == [
        ["KIND", "KEPT", "DUE", "REMOVED"], ["dead", "90d", "2", "0"], ["recovered", "14d", "0", "0"],
    ]  # fmt: skip
    assert "Nothing was changed." in result.stderr
    assert len(later.json("dlq", "list")) == 2


def test_what_is_due_goes_and_the_trail_says_who_did_it(later: Shop) -> None:
    done = later.json("dlq", "prune", "--yes", "--by", "ada")
    assert done["removed"] == {"dead": 2, "recovered": 0, "discarded": 0, "audit": 0}
    assert later.json("dlq", "list") == []
    again = later.run("dlq", "prune")
    assert (again.exit_code, "Removed 0 rows." in again.stderr) == (0, True)


def test_without_a_terminal_it_wants_yes(later: Shop) -> None:
    result = later.run("dlq", "prune")
    assert result.exit_code == 2
    assert "dlq prune --yes" in result.stderr
    assert len(later.json("dlq", "list")) == 2


def test_whoever_says_no_at_the_terminal_keeps_everything(later: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_attended", lambda: True)
    assert later.run("dlq", "prune").exit_code == 1
    assert len(later.json("dlq", "list")) == 2
