"""What a user can set is in the README: every setting, every field of a policy, every variable, every command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from celery_guardrails.cli import guardrails
from celery_guardrails.policy import Policy
from celery_guardrails.settings import ENVIRONMENT_VARIABLES, Settings

README = (Path(__file__).resolve().parents[3] / "README.md").read_text("utf-8")


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {title}\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    return str(found)


def named_in_table(text: str) -> set[str]:
    """What the first column of its tables names; `.b` behind `a.b` is `a.b`, too."""
    found: set[str] = set()
    for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE):
        first, *others = re.findall(r"`([\w.]+)`", row)
        found |= {first, *(f"{first.partition('.')[0]}{each}" if each[0] == "." else each for each in others)}
    return found


def test_every_setting_is_in_the_table() -> None:
    keys = set()
    for name, value in Settings():
        inner = type(value).model_fields if name not in ("policy",) and hasattr(type(value), "model_fields") else {}
        keys |= {f"{name}.{each}" for each in inner} or {name}
    assert named_in_table(section("Settings")) == keys


def test_every_field_of_a_policy_is_in_the_table() -> None:
    assert set(Policy.model_fields) <= named_in_table(section("The policy"))


@pytest.mark.parametrize("name", ENVIRONMENT_VARIABLES)
def test_every_variable_is_named(name: str) -> None:
    assert f"`{name}`" in section("Settings")


@pytest.mark.parametrize("command", guardrails.list_commands(None))  # type: ignore[arg-type]
def test_every_command_is_shown(command: str) -> None:
    assert f"guardrails {command}" in README


def test_every_section_is_in_the_list_at_the_top() -> None:
    titles = re.findall(r"^## (.+)$", README, re.MULTILINE)
    listed = re.findall(r"^\[(.+?)\]\(#([\w-]+)\)", README, re.MULTILINE)
    assert [title for title, _ in listed] == titles
    for title, anchor in listed:
        assert anchor == re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
