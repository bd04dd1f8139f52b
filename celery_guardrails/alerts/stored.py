"""Alert groups as they are stored: reading one back, and all of them.

It must not know what a caller says about a group that cannot be read.
"""
# on its own: a group knows no rows, and whoever reads rows must not each know how

from __future__ import annotations

from dataclasses import replace
from typing import Any

from celery_guardrails.alerts.group import AlertGroup, GroupState
from celery_guardrails.store import alert
from celery_guardrails.store.alert import GroupRow

__all__ = ["EVERY_STATE", "every_group", "read_group"]

EVERY_STATE = tuple(state.value for state in GroupState)


def read_group(row: GroupRow) -> AlertGroup:
    """The group of a row.

    Raises:
        ValueError: it cannot be read.
    """
    return replace(AlertGroup.from_payload(row.data), posted=row.message_ts is not None)


def every_group(conn: Any) -> list[tuple[GroupRow, AlertGroup]]:
    """All groups that can be read, with their rows."""
    found = []
    for row in alert.load_groups(conn, states=EVERY_STATE):
        try:
            found.append((row, read_group(row)))
        except ValueError:
            continue  # the alert service says so
    return found
