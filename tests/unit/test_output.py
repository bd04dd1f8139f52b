"""Every output of the program is named in `tests/output.py`, where it is said how secrets are looked for in it."""

from __future__ import annotations

from celery_guardrails.store.metadata import metadata
from tests.output import OTHERS, OUTPUTS, commands, sink_classes
from tests.unit.test_log import loggers_in_source


def test_every_output_of_the_program_is_looked_at() -> None:
    assert {
        *(f"command {name}" for name in commands()),
        *(f"sink {name}" for name in sink_classes()),
        *(f"table {name}" for name in metadata.tables),
        *(f"logger {name}" for name in loggers_in_source()),
    } == OUTPUTS - OTHERS
