"""What setup.cfg promises and what the tests try are the same."""

from __future__ import annotations

import configparser
import re

from tests.harness import ROOT


def requirements(lines: str, operator: str) -> dict[str, str]:
    found = re.findall(rf"^([\w.-]+){operator}([\w.]+)", lines, re.MULTILINE)
    return dict(found)


def test_the_oldest_versions_promised_are_the_oldest_tested():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    promised = requirements(setup["options"]["install_requires"], ">=")
    tested = requirements((ROOT / "tests" / "oldest.txt").read_text(), "==")
    assert promised
    assert {name: tested.get(name) for name in promised} == promised
