"""Whatever acts on a whole server has one of its own: other tests use the shared ones at the same time."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.harness import ROOT

# what a shared server's handle cannot refuse by itself, as it does `stop`, `pause` and the like
ON_ALL = re.compile(
    r"client_kill|replicaof|demote\(|config_set|commandstats|flushall|script_flush|monitor\("
    r"|swapdb|close_all_connections|refusing\("
    r"|\"(ACL|CONFIG|CLIENT|DEBUG|SHUTDOWN)\"",
)
OWN = re.compile(r"own_servers|own_lines|own_redis|own_rabbitmq|own_postgresql|run_server\(|careless_redis")
MARKED = re.compile(r"^pytestmark = .*own_(?:servers|lines)", re.M)


def _acting_on_all() -> Iterator[tuple[str, str]]:
    """Every integration test that acts on a whole server, by itself: its name and its source."""
    for path in sorted((ROOT / "tests" / "integration").rglob("test_*.py")):
        text = path.read_text("utf-8")
        if MARKED.search(text):
            continue
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and ON_ALL.search(source := _source(text, node)):
                yield f"{path.stem}:{node.name}", source


def _source(text: str, node: ast.FunctionDef) -> str:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return "\n".join(text.splitlines()[first - 1 : node.end_lineno])


@pytest.mark.parametrize(("name", "source"), [pytest.param(*found, id=found[0]) for found in _acting_on_all()])
def test_what_acts_on_a_whole_server_has_its_own(name: str, source: str) -> None:
    assert OWN.search(source), f"mark {name} with own_servers: {ON_ALL.findall(source)}"
