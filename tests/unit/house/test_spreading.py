"""How the tests are dealt out: what is named is there, and whatever shares a fixture stays together."""

from __future__ import annotations

import ast

import pytest

from tests.harness import ROOT
from tests.spreading import LANES, SINGLY, rank, scope

PLACES = [place for lane in LANES for place in lane]


@pytest.mark.parametrize("place", [*PLACES, *SINGLY])
def test_what_is_dealt_out_otherwise_is_there(place: str) -> None:
    path, _, function = place.partition("::")
    named = {node.name for node in ast.parse((ROOT / path).read_text("utf-8")).body if hasattr(node, "name")}
    assert not function or function in named


@pytest.mark.parametrize("path", SINGLY)
def test_files_whose_tests_go_singly_share_no_fixture(path: str) -> None:
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "scope":
            assert ast.unparse(node.value) not in ("'module'", "'class'", "'package'")


def test_lanes_and_long_files_come_first_and_stay_as_they_are_named() -> None:
    lane, single = "tests/integration/worker/test_unanswered.py::test_a[1]", f"{SINGLY[0]}::test_b[2]"
    other, unit = "tests/integration/worker/test_attempts.py::test_c[3]", "tests/unit/test_clock.py::test_d"
    assert sorted((unit, other, single, lane), key=rank) == [lane, single, other, unit]
    assert scope(lane) == scope("tests/integration/guardian/test_archive_away.py::test_e")
    assert scope(single) == single
    assert scope(other) == "tests/integration/worker/test_attempts.py"
