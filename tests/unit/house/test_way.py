"""The picture of a message's way is what its script draws now, and can be read."""

from __future__ import annotations

from xml.etree import ElementTree

from house.pictures.way import PICTURE, drawn

SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_is_what_the_script_draws_now() -> None:
    assert PICTURE.read_text("utf-8") == drawn(), "it is stale: python -m house.pictures.way"


def test_it_reads_on_a_dark_page_and_without_eyes() -> None:
    root = ElementTree.fromstring(drawn())
    assert root.attrib["aria-label"] == root.findtext(f"{SVG}title")
    light, _, dark = (root.findtext(f"{SVG}style") or "").partition("prefers-color-scheme:dark")
    used = {word for each in root.iter() for word in each.attrib.get("class", "").split()} - {"sans", "mono"}
    for name in used:
        assert f".{name}{{" in light
        assert f".{name}{{" in dark


def test_no_text_leaves_the_picture() -> None:
    root = ElementTree.fromstring(drawn())
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for text in root.iter(f"{SVG}text"):
        assert 0 < float(text.attrib["y"]) <= height, text.text
        wide = 0.6 * float(text.attrib["font-size"]) * len(text.text or "")
        start = float(text.attrib["x"]) - wide * {"start": 0, "middle": 0.5, "end": 1}[text.attrib["text-anchor"]]
        assert start >= 0, text.text
        assert start + wide <= width, text.text
