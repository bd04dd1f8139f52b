"""The documentation's pictures are what their scripts draw now, of the message and the output as they are now."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "pictures"
MODULES = ("canvas", "letter", "slack_message", "way")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Callable[[], str]]:
    """What is drawn, by file."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in MODULES:  # no module of these names is left behind for other tests
        monkeypatch.delitem(sys.modules, name, raising=False)
    drawn: Mapping[str, Callable[[], str]] = runpy.run_path(str(FOLDER / "__main__.py"))["PICTURES"]
    yield drawn
    for name in MODULES:
        sys.modules.pop(name, None)


def test_every_picture_is_what_its_script_draws_now(pictures: Mapping[str, Callable[[], str]]) -> None:
    assert {path.name for path in FOLDER.glob("*.svg")} == set(pictures)
    for name, draw in pictures.items():
        assert (FOLDER / name).read_text("utf-8") == draw(), f"{name} is stale: python docs/pictures"


def test_a_picture_reads_on_a_dark_page_and_without_eyes(pictures: Mapping[str, Callable[[], str]]) -> None:
    for name, draw in pictures.items():
        root = ElementTree.fromstring(draw())
        assert root.attrib["aria-label"] == root.findtext(f"{SVG}title"), name
        style = root.findtext(f"{SVG}style") or ""
        assert "prefers-color-scheme:dark" in style
        colours = {word for text in root.iter(f"{SVG}text") for word in text.attrib["class"].split()}
        assert colours <= {word for word in colours if f".{word}{{" in style}, name


def test_no_text_leaves_its_picture(pictures: Mapping[str, Callable[[], str]]) -> None:
    for name, draw in pictures.items():
        root = ElementTree.fromstring(draw())
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        for text in root.iter(f"{SVG}text"):
            assert 0 < float(text.attrib["y"]) <= height, (name, text.text)
            if text.attrib["text-anchor"] == "start":
                wide = 0.52 * float(text.attrib["font-size"]) * len(text.text or "")
                assert float(text.attrib["x"]) + wide <= width, (name, text.text)
