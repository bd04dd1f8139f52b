"""Which releases of Celery are looked at for seams, and what becomes of what is missing there."""

from __future__ import annotations

from pathlib import Path

import pytest

from house import releases as house
from house.releases import Release, Seen, block, bounds_in, releases
from tests.harness import ROOT

BOUNDS = {"celery": ">=5.5.0,<5.8", "kombu": ">=5.5.2,<5.8"}


def test_each_minor_release_is_looked_at_and_the_newest_of_all() -> None:
    found = releases(BOUNDS)
    assert [(release.name, release.supported) for release in found] == [
        ("5.5", True), ("5.6", True), ("5.7", True), ("newest", False),
    ]  # fmt: skip
    assert found[0].requirements == ("celery>=5.5.0,<5.6", "kombu>=5.5.2,<5.8")
    assert found[-1].requirements == ("celery>=5.5.0a0", "kombu>=5.5.2a0")


def test_the_bounds_are_those_of_the_package() -> None:
    assert set(bounds_in(ROOT / "setup.cfg")) == set(house.FAMILY)
    assert all(said.startswith(">=") and ",<" in said for said in bounds_in(ROOT / "setup.cfg").values())


@pytest.mark.parametrize(("broken", "code"), [("", 0), ("5.6", 1), ("newest", 0)])
def test_only_a_supported_release_fails_the_run(
    broken: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def look(release: Release, folder: Path) -> Seen:
        wrong = ("celery.app.trace:gone is gone",) if release.name == broken else ()
        return Seen(release, {"celery": "5.8.0a1" if release.name == "newest" else f"{release.name}.1"}, wrong)

    monkeypatch.setattr(house, "look", look)
    assert house.main([str(tmp_path)]) == code
    out = capsys.readouterr().out
    assert ("celery.app.trace:gone is gone" in out) == bool(broken)
    assert ("A RELEASE THAT IS NOT SUPPORTED YET LACKS SEAMS: celery 5.8.0a1" in out) == (broken == "newest")


def test_what_cannot_be_installed_is_said(tmp_path: Path) -> None:
    seen = house.look(Release("none", ("./no-such-package",)), tmp_path)
    assert seen.wrong
    assert seen.wrong[0].startswith("it cannot be installed: ")


def test_the_block_says_what_to_do() -> None:
    text = block(Seen(Release("newest", (), supported=False), {"celery": "5.8.0a1"}, ("x is gone",)))
    assert "x is gone" in text
    assert "Mend seams.py" in text
