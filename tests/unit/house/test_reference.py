"""What a user can set, type and import is in the documentation's reference, and described there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

import celery_guardrails
from celery_guardrails import testing
from celery_guardrails.policy import Idempotency, Policy
from celery_guardrails.settings import ENVIRONMENT_VARIABLES, Settings
from tests.document.reference import field_table
from tests.harness import ROOT


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def rows() -> dict[str, Any]:
    found = [row for section in field_table().TABLES["settings"] for row in field_table().setting_rows(section)]
    assert len({row.name for row in found}) == len(found)
    return {row.name: row for row in found}


def test_every_setting_is_in_a_table() -> None:
    keys = set()
    for name, value in Settings():
        inner = value if name == "retention" else leaves(value) if name != "policy" else {}
        keys |= {f"{name}.{each}" for each in inner} or {name}
    assert set(rows()) == keys


def leaves(value: Any) -> Iterator[str]:
    """The keys of a section, and of the sections in it."""
    for name in getattr(type(value), "model_fields", ()):
        inner = [f"{name}.{each}" for each in leaves(getattr(value, name))]
        yield from inner or [name]


def test_every_field_of_a_policy_is_in_the_table() -> None:
    assert [row.name for row in field_table().policy_rows()] == list(Policy.model_fields)


def test_every_field_of_idempotency_is_in_the_table() -> None:
    assert [row.name for row in field_table().idempotency_rows()] == list(Idempotency.model_fields)


def test_every_variable_is_in_the_table() -> None:
    assert [row.name for row in field_table().variable_rows()] == list(ENVIRONMENT_VARIABLES)


def test_every_row_says_what_it_means() -> None:
    tables = field_table()
    every = [*rows().values(), *tables.policy_rows(), *tables.idempotency_rows(), *tables.variable_rows()]
    for row in every:
        assert re.fullmatch(r"[A-Z`].{15,}\.", row.meaning), row
        assert "Default" not in row.meaning, row
        assert row.kind, row


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("dead_letter.publish_timeout", "duration", '`"5s"`'),
        ("dead_letter.spool_limit", "whole number from 1", "`268_435_456`"),
        ("idempotency.url", "text or `None`", "`None`"),
        ("slack.token", "text, secret or `None`", "`None`"),
        ("alerts.group_by", "names", '`("task",)`'),
        ("alerts.routes", "list of routes", "`()`"),
        ("alerts.escalation", "list of steps", "`()`"),
        ("alerts.storm.groups", "whole number from 1", "`10`"),
        ("alerts.thresholds.dead_letter.count", "whole number from 1", "`1`"),
        ("alerts.fallback", "a destination", '`"log"`'),
        ("retention.audit", "duration or `None`", '`"400d"`'),
        ("policy", "a policy's fields", "`{}`"),
        ("enabled", "`True` or `False`", "`True`"),
    ],
)
def test_a_setting_is_written_as_its_user_writes_it(name: str, kind: str, default: str) -> None:
    assert (rows()[name].kind, rows()[name].default) == (kind, default)


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("max_attempts", "whole number from 1 or `None`", "`5`"),
        ("backoff", "backoff", '`Exponential("5s", factor=3, cap="5m")`'),
        ("acks", '`"late"` or `"early"`', '`"late"`'),
        ("deadline", "duration or `None`", '`"2h"`'),
        ("idempotency", "an `Idempotency`, its fields as a dict, `True` or `None`", "`None`"),
    ],
)
def test_a_field_is_written_as_its_user_writes_it(name: str, kind: str, default: str) -> None:
    (row,) = [row for row in field_table().policy_rows() if row.name == name]
    assert (row.kind, row.default) == (kind, default)


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("key", "names, a function `(args, kwargs) -> text` or `None`", "`None`"),
        ("keep_result", "whole number from 0", "`65_536`"),
        ("lease", "duration", '`"1m"`'),
        ("on_duplicate", '`"result"` or `"ignore"`', '`"result"`'),
    ],
)
def test_a_field_of_idempotency_is_written_as_its_user_writes_it(name: str, kind: str, default: str) -> None:
    (row,) = [row for row in field_table().idempotency_rows() if row.name == name]
    assert (row.kind, row.default) == (kind, default)


def test_every_table_is_on_the_page() -> None:
    shown = re.findall(r"^```\{guardrails-table\} (\w+) ?(\w*)$", page("settings.md"), re.MULTILINE)
    assert sorted(shown) == sorted((name, section) for name, parts in field_table().TABLES.items() for section in parts)


@pytest.mark.parametrize("command", ["guardian", "guardrails"])
def test_every_command_is_on_the_page(command: str) -> None:
    assert f"```{{click}} celery_guardrails.cli:{command}\n" in page("commands.md")


@pytest.mark.parametrize(
    ("module", "names"), [("celery_guardrails", celery_guardrails.__all__), ("testing", testing.__all__)]
)
def test_every_public_name_is_on_the_page(module: str, names: list[str]) -> None:
    shown = re.findall(r"^\.\. auto(?:class|exception):: (\w+)", page("api.md"), re.MULTILINE)
    assert set(names) <= set(shown), module
