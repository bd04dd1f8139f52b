"""Whatever acts on a whole server has one of its own: other tests use the shared ones at the same time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.harness import ROOT

ON_ALL = re.compile(
    r"client_kill|config_set|commandstats|flushall|script_flush|monitor\(|swapdb|close_all_connections|refusing\("
    r"|server\.(stop|kill|pause|resume|close|pid|directory)\b|\"(ACL|CONFIG|CLIENT|DEBUG|SHUTDOWN)\"",
)
OWN = re.compile(r"own_servers|own_redis|own_rabbitmq|own_postgresql|run_server\(")
FILES = [
    path for path in sorted((ROOT / "tests" / "integration").rglob("test_*.py")) if ON_ALL.search(path.read_text())
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_acts_on_a_whole_server_has_its_own(path: Path) -> None:
    assert OWN.search(path.read_text("utf-8")), f"mark its tests with own_servers: {ON_ALL.findall(path.read_text())}"
