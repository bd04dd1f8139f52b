"""The list of seams has every name of the Celery family that guardrails uses and that nobody promises."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from celery_guardrails.seams import SEAMS
from tests.foreign import Use, overridden, used

LISTED = {seam.name for seam in SEAMS}
LAST = {name.replace(":", ".").rpartition(".")[2] for name in LISTED}

# Attributes that look private, or foreign, and are neither.
HARMLESS = {
    "__class__": "Python's own; whose class is changed stands in the list",
    "_getframe": "Python's own",
    "_replace": "a named tuple's, documented",
    "argv": "Python's own",
    "exc_info": "a log record's", "exc_text": "a log record's", "msg": "a log record's",
    "auto_decode": "py-amqp's, an argument of its channel",
    "delivery_info": "kombu's message, documented",
    "headers": "kombu's message, documented",
    "no_declare": "kombu's queue and exchange, documented",
    "ack": "kombu's message, documented",
    "run": "Celery's task and Python's process, documented",
    "abstract": "Celery's task, documented",
}  # fmt: skip


def is_listed(use: Use) -> bool:
    module, _, name = use.name.rpartition(":")
    if not module:
        return use.name[1:] in LAST or use.name[1:] in HARMLESS
    home = getattr(getattr(import_module(module), name.partition(".")[0], None), "__module__", module)
    return any(known == where or known.startswith(f"{where}.") for known in LISTED for where in
               (f"{module}:{name}", f"{home}:{name}"))  # fmt: skip


def test_every_name_that_is_used_is_listed() -> None:
    assert [use for use in sorted(used()) if not is_listed(use)] == []


def test_every_method_in_place_of_one_of_theirs_is_listed() -> None:
    found = [use for use in sorted(overridden()) if use.name.rpartition(".")[2] not in LAST | set(HARMLESS)]
    assert found == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from celery import Task\ndef f(request: Task): return request._private", {"._private"}),
        ("from celery import Task\ndef f(request: Task): return getattr(request, '_private', None)", {"._private"}),
        ("from celery.app import trace\ntrace.something()", {"celery.app.trace:something"}),
        ("from celery.worker.request import Request", {"celery.worker.request:Request"}),
        ("from celery._state import current_app", {"celery._state:current_app"}),
        ("from celery import Task\ndef f(consumer): consumer.on_ready = 1", {".on_ready"}),
        ("from celery import Task\nclass A(Task):\n  def f(self): return self._private", {"._private"}),
        (
            "from celery import Task\nclass A:\n  def __init__(self): self._own = 1\n  def f(self): return self._own",
            set(),
        ),
        ("from celery import Task, signals\nfrom kombu.utils.json import dumps", set()),
        ("def f(record): return record._private", set()),
    ],
)
def test_the_search_finds(source: str, found: set[str], tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(source)
    assert {use.name for use in used(tmp_path)} == found
