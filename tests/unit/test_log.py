"""Our loggers hide secrets, in the line and in the traceback below it; and there is none beside those."""

from __future__ import annotations

import ast
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import celery_guardrails
from celery_guardrails import log
from celery_guardrails.alerts.sinks.log import LOGGER_NAME
from celery_guardrails.redaction import MASK, process

ROOT = Path(celery_guardrails.__file__).parent
SECRET = "hunter2-and-more"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a handler writes of the worker's log."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("celery_guardrails.worker")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def loggers_in_source() -> set[str]:
    """The name of every logger of ours that a line of the package asks for."""
    found = set()
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.getLogger" and node.args:
                found.add(_value(ast.unparse(node.args[0]), module))
    return {name for name in found if name.split(".")[0] == "celery_guardrails"}


def _value(expression: str, module: str) -> str:
    names: dict[str, Any] = {"__name__": module, "LOGGER_NAME": LOGGER_NAME}
    try:
        return str(eval(expression, {}, names))
    except NameError:  # another package's, such as `base.__name__`
        return expression


def test_every_logger_of_the_package_hides_secrets() -> None:
    assert loggers_in_source() == set(log.LOGGERS)
    for name in log.LOGGERS:
        assert sum(isinstance(each, log._Cleaning) for each in logging.getLogger(name).filters) == 1


def test_a_line_is_written_without_its_secrets(written: io.StringIO) -> None:
    logger = logging.getLogger("celery_guardrails.worker")
    logger.warning("it failed on %s with %s", f"redis://:{SECRET}@h", {"password": SECRET})
    logger.warning("100 % sure", exc_info=False)
    logger.warning("%d of %s", 3, "five")
    assert written.getvalue() == (f"it failed on redis://{MASK}@h with {{'password': {MASK}}}\n100 % sure\n3 of five\n")


def test_a_traceback_is_written_without_its_secrets(written: io.StringIO) -> None:
    logger = logging.getLogger("celery_guardrails.worker")
    try:
        try:
            raise KeyError(f"api_key={SECRET}")
        except KeyError as exc:
            raise ValueError(f"Bearer {SECRET}77") from exc
    except ValueError:
        logger.warning("guardrails failed", exc_info=True)
    assert SECRET not in written.getvalue()
    assert "ValueError: Bearer" in written.getvalue()
    assert "KeyError" in written.getvalue()


def test_what_cannot_be_written_ends_nobody(written: io.StringIO) -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError(SECRET)

    logging.getLogger("celery_guardrails.worker").warning("about %s", Odd())
    logging.getLogger("celery_guardrails.worker").warning("%s and %s", "one")
    assert "about <a Odd whose text cannot be shown>" in written.getvalue()
    assert "(TypeError): %s and %s" in written.getvalue()
    assert SECRET not in written.getvalue()


def test_the_settings_of_every_application_count(monkeypatch: pytest.MonkeyPatch, written: io.StringIO) -> None:
    for name in ("_names", "_patterns", "_redactor"):
        monkeypatch.setattr(process, name, getattr(process, name))
    process.hide_also(["birth_date"], [r"EMP-\d+"])
    process.hide_also([], [r"CUST-\d+"])
    logging.getLogger("celery_guardrails.worker").warning("birth_date=1970 of EMP-12 and CUST-13")
    assert written.getvalue() == f"birth_date={MASK} of {MASK} and {MASK}\n"
