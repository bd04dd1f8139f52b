"""The pictures in the README show what people see today: the quick start is played once more, and its parts compared.

Times, ids and counts differ each time; what names them does not. `make pictures` draws the pictures anew.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from house.pictures import scene, slack, terminal
from house.pictures.__main__ import PICTURES
from tests.harness import ROOT


def test_the_pictures_show_what_people_see(tmp_path: Path) -> None:
    shown = scene.play(scene.quick_start_of(ROOT / "README.md"), tmp_path)
    message = (PICTURES / "slack_message.svg").read_text("utf-8")
    assert slack.labels_in(message) == slack.labels_of(shown.blocks)
    assert slack.labels_in(slack.picture(shown.blocks, shown.channel)) == slack.labels_of(shown.blocks)
    output = (PICTURES / "dlq_show.svg").read_text("utf-8")
    assert terminal.labels_of(output) == terminal.labels_of(shown.output)
    assert {"Task id", "Attempts", "Failed at", "Next"} <= terminal.labels_of(shown.output)


def test_the_pictures_fetch_nothing() -> None:
    for path in PICTURES.glob("*.svg"):
        ElementTree.fromstring(path.read_text("utf-8"))
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not any(word in text for word in ("http:", "https:", "url(//", "<script", "<image")), path
