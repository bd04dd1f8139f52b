"""What the documentation's pages list by hand is what the code has: no name more, none less."""

from __future__ import annotations

import re

from celery_guardrails.app.own_option import OPTIONS
from celery_guardrails.policy import Category, Reason
from celery_guardrails.store.filter import FIELDS
from celery_guardrails.transport.redis.rights import COMMANDS, KEYS
from celery_guardrails.transport.waiting.level import LEVELS
from tests.harness import ROOT


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next one of its rank."""
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found)


def first_cells(text: str) -> list[str]:
    """The first column of the tables."""
    return re.findall(r"^\| `([^`|]+)`[^|]*\|", text, re.MULTILINE)


def test_each_reason_of_a_dead_letter_is_explained() -> None:
    listed = first_cells(section(page("dead_letters.md"), "Why a letter is dead"))
    assert listed == [reason.value for reason in Reason]


def test_each_category_of_errors_is_in_the_taxonomy() -> None:
    listed = first_cells(section(page("policies.md"), "Which errors are tried again"))
    assert sorted(listed) == sorted(category.value for category in Category)


def test_each_field_of_the_query_language_is_in_its_table() -> None:
    rows = re.findall(r"^\| (.+?) \|", section(page("dead_letters.md"), "Looking"), re.MULTILINE)
    named = re.findall(r"`([a-z_]+)[:.]", " ".join(rows))
    assert sorted(set(named) - {"arg"}) == sorted(FIELDS)


def test_each_command_that_a_user_of_redis_needs_is_named() -> None:
    text = section(page("broker_rights.md"), "Redis (ACL)")
    (commands,) = re.findall(r"the commands `(.*?)`", text, re.DOTALL)
    assert commands.split() == [form[0].lower() for form in COMMANDS]


def test_what_appears_on_the_broker_is_listed() -> None:
    text = section(page("operations.md"), "What appears on the broker")
    assert f"{len(LEVELS) + 3} queues and {len(LEVELS) + 1} exchanges" in text
    for key in set(KEYS) - {"guardrails.never"}:  # which is never there
        assert f"`{key}`" in text


def test_each_retry_option_of_celery_has_its_counterpart() -> None:
    olds = " ".join(re.findall(r"^\| `([^`|]+)`", section(page("migrating.md"), "Old and new"), re.MULTILINE))
    assert [option for option in OPTIONS if option not in olds] == []
