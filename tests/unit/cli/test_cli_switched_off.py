"""A requeue under the kill switch asks first: nothing would be tried again, and some ends would never be heard of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu.transport.memory import Channel

from celery_guardrails.cli.dlq import change
from tests.unit.cli.conftest import Shop
from tests.unit.cli.deaths import dead

WORDS = "Guardrails is switched off (enabled: False)"


@pytest.fixture
def off(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path, enabled=False)
    yield made
    made.close()
    Channel.queues.clear()


def states(shop: Shop) -> dict[str, int]:
    found: dict[str, int] = shop.json("dlq", "stats")["by_state"]
    return found


@pytest.mark.parametrize("meant", ["id", "query"])
def test_without_a_terminal_it_wants_yes(off: Shop, meant: str) -> None:
    letter = dead(1)
    off.archive(letter)
    which = letter.id if meant == "id" else "task:shop.mail"
    refused = off.run("dlq", "requeue", which, "--reason", "x")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert (WORDS in refused.stderr) is (meant == "id")
    assert states(off) == {"dead": 1}
    assert off.run("dlq", "requeue", which, "--reason", "x", "--yes").exit_code == 0
    assert states(off) == {"requeued": 1}


@pytest.mark.parametrize("meant", ["id", "query"])
def test_at_a_terminal_it_asks_and_says_why(off: Shop, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    letter = dead(1)
    off.archive(letter)
    which = letter.id if meant == "id" else "task:shop.mail"
    monkeypatch.setattr(change, "is_attended", lambda: True)
    refused = off.run("dlq", "requeue", which, "--reason", "x", stdin="n\n")
    assert refused.exit_code == 1
    assert WORDS in refused.stderr
    assert states(off) == {"dead": 1}
    assert off.run("dlq", "requeue", which, "--reason", "x", stdin="y\n").exit_code == 0
    assert states(off) == {"requeued": 1}


def test_what_runs_nothing_asks_nothing(off: Shop) -> None:
    letter = dead(1)
    off.archive(letter)
    for verb, state in (("discard", "discarded"), ("restore", "dead")):
        assert off.run("dlq", verb, letter.id, "--reason", "x").exit_code == 0
        assert states(off) == {state: 1}
    assert off.run("dlq", "requeue", letter.id, "--reason", "x", "--dry-run").exit_code == 0
