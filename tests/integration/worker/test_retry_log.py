"""What Celery's worker log says of a retry: the error with its message, which attempt comes next, and when."""

from __future__ import annotations

import re

from tests.guarded import Guarded
from tests.harness import Process

TEXT = "no answer from https://shop:hunter2@mail.example\nafter 3 tries " + "x" * 2000
WAYS = ("raised", "exc", "changed", "bare")


def test_a_retry_s_line_says_its_error_its_attempt_and_its_delay(on_redis: Guarded) -> None:
    worker = on_redis.worker("-l", "INFO", "-c", "1")
    ids = {way: on_redis.tasks.telling.delay(way, way, TEXT).id for way in WAYS}
    for way in WAYS:
        on_redis.wait_for_runs(way, 2)
    lines = {way: _line(worker, ids[way]) for way in WAYS}
    for way in ("raised", "exc", "changed"):
        said = lines[way]
        assert re.search(r"retry: attempt 2 of 2 in 100 ms after TimeoutError: no answer from https://", said), said
        assert "mail.example after 3 tries xxx" in said, "on one line"
        assert said.endswith("xxx... (backoff)")
        assert len(said) < 600
        assert "hunter2" not in said
    assert lines["bare"].endswith("retry: attempt 2 of 2 in 100 ms, asked for by the task (backoff)")
    assert "MaxRetriesExceeded" not in worker.log()


def _line(worker: Process, task_id: str) -> str:
    (line,) = [line for line in worker.log().splitlines() if f"[{task_id}] retry:" in line]
    return line
