"""A task that leaves the application while it is overdue: its alert ends, and says why."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from unittest import mock

import pytest
from sqlalchemy import update

from celery_guardrails.alerts.condition import Condition
from celery_guardrails.alerts.engine import step
from celery_guardrails.alerts.event import group_key
from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.alerts.rules import Rules
from celery_guardrails.alerts.service import change_of
from celery_guardrails.cli.overdue import OverdueSource
from celery_guardrails.guardian.watching import Watching
from celery_guardrails.store import alert, expected
from celery_guardrails.store.engine import Store, open_store
from tests.archive import migrated_file
from tests.integration.guardian.test_overdue import DUE, HOUR, MINUTE, NOW, application, nightly

# of kombu's own tables, when `application` makes them
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(migrated_file(tmp_path / "archive.db"))
    yield opened
    opened.close()


class Deployed:
    """A guardian of an application that has some tasks, watching; each deployment starts a new one."""

    def __init__(self, store: Store, schedule: dict, leave_out: str = "") -> None:
        self.clock, self.store = [NOW], store
        guardrails = application(schedule, self.clock)
        guardrails.app.tasks.pop(leave_out, None)
        self.source = OverdueSource(guardrails, store, lambda: False)
        self.watching = Watching(store, [self.source])

    def look(self, now: datetime) -> list[tuple[str, bool, str]]:
        """What changes at this look, and is then counted by the alert's group."""
        self.clock[0] = now
        self.watching.run_once(now, False)
        with self.store.begin() as conn:
            events = alert.unprocessed(conn)
            found = []
            for ref_id, payload in events:
                event = Condition.from_payload(payload)
                known = alert.load_groups(conn, keys=[group_key(event)])
                group = AlertGroup.from_payload(known[0].data) if known else AlertGroup.idle(event)
                group, _ = step(group, event, now, Rules())
                row = change_of(group, known[0] if known else None, [], now).group
                assert alert.save_group(conn, row, now)
                alert.mark_processed(conn, [ref_id], group.key)
                found.append((event.task, event.holds, event.summary))
        return found


def test_a_task_that_leaves_the_application_is_overdue_no_more(store):
    first = Deployed(store, nightly())
    assert first.look(NOW) == []
    ((task, holds, _),) = first.look(DUE + 3 * HOUR)
    assert (task, holds) == ("shop.nightly", True)
    deployed = DUE + 3 * HOUR + MINUTE
    later = Deployed(store, {}, "shop.nightly")
    # another application, or an older guardian, may still have it
    assert [later.look(deployed + minutes * MINUTE) for minutes in (0, 5, 14)] == [[], [], []]
    words = "shop.nightly is not in the application of any guardian any more"
    assert later.look(deployed + 16 * MINUTE) == [("shop.nightly", False, words)]
    assert later.look(deployed + 17 * MINUTE) == []
    # it is put back
    again = Deployed(store, nightly())
    ((task, holds, _),) = again.look(deployed + 18 * MINUTE)
    assert (task, holds) == ("shop.nightly", True)


def test_a_task_of_another_application_whose_guardian_looks_stays_overdue(store):
    ours, theirs = Deployed(store, {}, "shop.nightly"), Deployed(store, nightly())
    theirs.look(NOW)
    assert theirs.look(DUE + 3 * HOUR)[0][:2] == ("shop.nightly", True)
    for minutes in range(1, 40):
        at = DUE + 3 * HOUR + minutes * MINUTE
        assert [*ours.look(at), *theirs.look(at)] in ([], [("shop.nightly", True, mock.ANY)])


def test_an_archive_of_an_older_version_does_not_say_when_it_saw_an_entry(store):
    Deployed(store, nightly()).look(NOW)
    with store.begin() as conn:
        conn.execute(update(expected.expected).values(seen_at=None))
        assert expected.gone(conn, "production", NOW + HOUR) == frozenset()
        assert expected.gone(conn, "production", NOW + HOUR + 16 * MINUTE) == {"shop.nightly"}
        assert expected.gone(conn, "production", NOW + 10 * 24 * HOUR) == frozenset()
        assert expected.known(conn, "production") == {}
