"""What CONTRIBUTING.md and SECURITY.md say of the house is so: rooms, paths, commands, links, versions."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_guardrails.cli import guardrails
from tests.harness import ROOT

PACKAGE = ROOT / "celery_guardrails"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
FOR_PEOPLE = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
EVERYDAY = {"clean", "help"}
"""Targets that nobody needs to be told about."""


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.read(ROOT / "setup.cfg")
    return found


def picture() -> str:
    (found,) = re.findall(r"^```text\n(.*?)^```", CONTRIBUTING, re.MULTILINE | re.DOTALL)
    return str(found)


def rooms_shown() -> Iterator[str]:
    """The rooms of the picture, top to bottom: `cli`, `worker`, `worker.consumer`, ..."""
    above = ""
    for line in picture().splitlines():
        indent = len(line) - len(line.lstrip())
        names = re.match(r"[\w/ ]*?(?=   |$)", line.strip())
        for name in names[0].split() if names and "/" in line else ():
            room = name.rstrip("/")
            above = room if indent == 1 else above
            yield room if indent == 1 else f"{above}.{room}"


def layers(setup: configparser.ConfigParser) -> list[str]:
    """The rooms that import-linter knows, top to bottom; those side by side one after the other."""
    text = setup["importlinter:contract:layers"]["layers"]
    return [name for name in re.findall(r"[\w.]+", text) if (PACKAGE / name.replace(".", "/")).is_dir()]


def test_the_picture_shows_every_room_that_the_linter_knows_in_its_order(setup: configparser.ConfigParser) -> None:
    known = layers(setup)
    assert [room for room in rooms_shown() if room in known] == known


def test_every_room_of_the_picture_is_there() -> None:
    assert [room for room in rooms_shown() if not (PACKAGE / room.replace(".", "/")).is_dir()] == []


def test_every_folder_of_the_package_has_its_room() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders - {"testing"} == {room for room in rooms_shown() if "." not in room}


def test_every_path_it_names_is_there() -> None:
    paths = re.findall(r"`([\w.]+(?:/[\w.]*)+)`", CONTRIBUTING)
    assert len(paths) > 20
    kept = [path for path in paths if not path.startswith("build/")]  # which commands make
    assert [path for path in kept if not (ROOT / path).exists() and not (PACKAGE / path).exists()] == []


def test_every_target_of_make_is_explained_and_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", CONTRIBUTING))
    assert named - targets == set()
    assert targets - named == EVERYDAY


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", FOR_PEOPLE)
def test_every_link_inside_leads_somewhere(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = ROOT / path if path else ROOT / name
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_supported_version_is_the_one_that_is_built(setup: configparser.ConfigParser) -> None:
    supported = re.findall(r"^\| (\d[\d.]*) +\| yes \|$", (ROOT / "SECURITY.md").read_text("utf-8"), re.MULTILINE)
    assert supported == [setup["metadata"]["version"].rpartition(".")[0]]


def test_a_bug_report_asks_for_a_command_that_is_there() -> None:
    form = (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text("utf-8")
    commands = re.findall(r"celery -A PROJECT guardrails (\w+)((?: --?\w+)*)", form)
    assert ("doctor", " --json") in commands
    for name, options in commands:
        command = guardrails.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(options.split()) <= known
