"""The names of settings, policy fields and variables: what the documentation calls so has to exist."""

from __future__ import annotations

import re
from collections.abc import Iterator

from celery_guardrails.policy import Policy
from celery_guardrails.settings import ENVIRONMENT_VARIABLES, Settings, sections

__all__ = ["faults_in_text", "unknown_setting", "unknown_variable"]

OF_THE_TESTS = frozenset({"GUARDRAILS_RANDOM_SEARCH", "GUARDRAILS_REQUIRE_SERVERS"})
"""Variables that only the project's own tests read."""
_RETENTION = frozenset(Settings().retention)
_VARIABLE = re.compile(r"\bGUARDRAILS_[A-Z_]+\b")
_SETTING = re.compile(r"(dead_letter|store|idempotency|slack|alerts|retention|policy)\.([a-z_]+)")


def unknown_variable(name: str) -> str | None:
    """Why this is no variable of ours, where it looks like one."""
    if _VARIABLE.fullmatch(name) and name not in ENVIRONMENT_VARIABLES and name not in OF_THE_TESTS:
        return f"there is no variable {name}"
    return None


def unknown_setting(name: str) -> str | None:
    """Why this is no setting, where it looks like one: `dead_letter.spool`, say."""
    found = _SETTING.fullmatch(name)
    if found is None or found[2] == "py":
        return None
    known = {"retention": _RETENTION, "policy": frozenset(Policy.model_fields)}.get(found[1]) or sections()[found[1]]
    return None if found[2] in known else f"there is no setting {name}"


def faults_in_text(text: str) -> Iterator[str]:
    """The variables that a text names and that do not exist."""
    for name in sorted(set(_VARIABLE.findall(text))):
        if fault := unknown_variable(name):
            yield fault
