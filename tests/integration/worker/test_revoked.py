"""What a person revokes before it starts: no letter, no run, and no message left, whatever else is wrong with it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from tests.guarded import Guarded
from tests.integration.worker.left import left
from tests.shared_server import SharedServer


@pytest.mark.parametrize("backend", ["up", "down"])
def test_what_is_revoked_before_it_starts_is_gone_and_makes_no_letter(
    losing: Guarded, shared_redis: SharedServer, backend: str
) -> None:
    url = losing.harness.environment["RESULT_BACKEND"]
    url = url if backend == "up" else url.replace(str(shared_redis.port), "1")
    worker = losing.worker(env={"RESULT_BACKEND": url})
    ids = [f"revoked-{number}" for number in range(3)]
    losing.app.control.revoke(ids)
    worker.wait_for_log("Tasks flagged as revoked: ")
    past = datetime.now(timezone.utc) - timedelta(seconds=5)
    losing.tasks.late.apply_async((ids[0], "bug"), task_id=ids[0])
    losing.tasks.late.apply_async((ids[1], "bug"), task_id=ids[1], expires=past)
    losing.tasks.early.apply_async((ids[2], "bug"), task_id=ids[2])
    for task_id in ids:
        worker.wait_for_log(f"Discarding revoked task: guarded.{'early' if task_id == ids[2] else 'late'}[{task_id}]")
    if backend == "up":
        losing.no_letters()
        assert {losing.app.AsyncResult(task_id).state for task_id in ids} == {"REVOKED"}
    else:
        assert losing._receive(0.5) == 0
    assert not any(losing.runs(task_id) for task_id in ids)
    worker.stop()
    assert left(losing) == 0
