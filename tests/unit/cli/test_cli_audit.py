"""`audit list`: who did what, the newest first, also of what is gone."""

from __future__ import annotations

from tests.unit.cli.conftest import Shop, lines
from tests.unit.cli.deaths import dead


def test_the_trail_is_listed_and_narrowed(shop: Shop) -> None:
    one, two = dead(1), dead(2)
    shop.archive(one, two)
    assert shop.run("audit", "list").stderr == "The audit trail is empty.\n"
    for verb, letter in (("discard", one), ("restore", one), ("discard", two)):
        shop.run("dlq", verb, letter.id, "--reason", f"password=hunter2 {verb}", "--by", "ada")
    found = shop.json("audit", "list")
    assert [(entry["action"], entry["target"]) for entry in found] == [
        ("discard", two.id), ("restore", one.id), ("discard", one.id),
    ]  # fmt: skip
    assert {(entry["actor"], entry["outcome"]) for entry in found} == {("ada", "done")}
    assert found[0]["before"]["state"] == "dead"
    assert [entry["action"] for entry in shop.json("audit", "list", "--target", one.id[:12])] == ["restore", "discard"]
    assert len(shop.json("audit", "list", "--target", "task-1")) == 2
    assert len(shop.json("audit", "list", "--action", "discard", "--limit", "1")) == 1
    assert shop.json("audit", "list", "--target", "nothing") == []
    shown = shop.run("audit", "list", "--limit", "2")
    assert lines(shown.stdout)[0].split() == ["At", "(UTC)", "Actor", "Action", "Target", "Outcome", "Reason"]
    assert shown.stderr == "2 entries, the newest; --limit shows more.\n"
    assert "hunter2" not in shown.stdout


def test_the_trail_stays_when_its_letter_is_gone(shop: Shop) -> None:
    letter = dead(1)
    shop.app.conf.guardrails["retention"] = {"dead": "1s", "audit": None}
    shop.archive(letter)
    shop.run("dlq", "discard", letter.id, "--reason", "x")
    shop.run("dlq", "restore", letter.id, "--reason", "x")
    shop.run("dlq", "prune", "--yes", "--by", "ada")
    assert shop.json("dlq", "list") == []
    assert len(shop.json("audit", "list", "--target", letter.id[:8])) == 2
    assert "retention: removed 1 dead" in shop.run("audit", "list", "--action", "prune").stdout
