"""Whatever acts on a whole server has one of its own: other tests use the shared ones at the same time."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
import sentry_sdk

from tests.harness import ROOT
from tests.sentry_client import sentry_client

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


def test_sentry_is_on_for_a_block_and_off_again() -> None:
    """A test that leaves it on patches Celery for all that come after it in its process."""
    with sentry_client("http://public@127.0.0.1:1/1"):
        assert sentry_sdk.is_initialized()
    assert not sentry_sdk.is_initialized()
    assert not sentry_sdk.get_client().integrations


def test_no_test_initialises_sentry_by_itself() -> None:
    """`sentry_sdk.init()` is not off: messages that are published in this process later would carry a trace."""
    by = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if "apps" not in path.parts and re.search(r"^\s*sentry_sdk\.init\(", path.read_text("utf-8"), re.M)
    ]
    assert by == ["tests/sentry_client.py"]
