"""The check of the links inside the built documentation."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.harness import ROOT

_spec = importlib.util.spec_from_file_location("links", ROOT / "house" / "links.py")
links = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(links)

INDEX = '<h1 id="top">x</h1>\n<a href="guide/start.html#first">x</a> <img src="../outside.svg"> <a href="#top">x</a>'
START = '<section id="first"><a href="../index.html#nowhere">x</a>\n<a href="https://example.org/none">x</a></section>'


def site(folder: Path) -> Path:
    (folder / "guide").mkdir()
    (folder / "index.html").write_text(INDEX)
    (folder / "guide" / "start.html").write_text(START)
    return folder


def test_each_link_that_leads_nowhere_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert links.main([str(site(tmp_path))]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "guide/start.html:1: ../index.html#nowhere leads to no anchor of index.html",
        "index.html:2: ../outside.svg leads to no file",
        "5 links on 2 pages, 2 lead nowhere",
    ]


def test_a_site_without_faults_passes(tmp_path: Path) -> None:
    folder = site(tmp_path)
    (folder / "index.html").write_text(INDEX.replace('src="../outside.svg"', 'src="guide/start.html"'))
    (folder / "guide" / "start.html").write_text(START.replace("#nowhere", "#top"))
    assert links.main([str(folder)]) == 0


def test_a_folder_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    assert links.main([str(tmp_path / "none")]) == 2
