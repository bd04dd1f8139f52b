"""The README leads to every page, and the pages show every command; what can be set is in `test_reference.py`."""

from __future__ import annotations

import re

import pytest

from celery_guardrails.cli import guardrails
from tests.document.block import PAGES, text_of

README = text_of("README.md")
GENERATED = {"docs/commands.md", "docs/changelog.md"}
WRITTEN = {page: text_of(page) for page in PAGES if page.startswith("docs/") and page not in GENERATED}


@pytest.mark.parametrize("command", guardrails.list_commands(None))  # type: ignore[arg-type]
def test_every_command_is_shown(command: str) -> None:
    assert any(f"guardrails {command}" in text for text in WRITTEN.values())


def test_every_page_is_in_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[\w/-]+\.md)\)", README))
    assert linked == set(WRITTEN) - {"docs/index.md"} | {"docs/commands.md"}


def test_it_is_read_in_some_minutes() -> None:
    assert len(README.splitlines()) <= 110


@pytest.mark.parametrize("picture", ["slack_message", "dlq_show"])
def test_it_shows_what_people_see(picture: str) -> None:
    assert f"docs/pictures/{picture}.svg" in README
