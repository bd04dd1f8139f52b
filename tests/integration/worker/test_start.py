"""A worker that is configured wrong does not start, and says why."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import Broker
from tests.guarded import APP, Guarded


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"polices": {}}, "polices"),
        ({"policy": {"max_atempts": 3}}, "max_attempts"),
        ({"slack": {"chanel": "#x"}}, "did you mean channel?"),
    ],
)
def test_a_wrong_setting_stops_the_worker(
    redis_broker: Broker, make_guarded: Callable[..., Guarded], settings: dict[str, object], said: str
) -> None:
    guarded = make_guarded(redis_broker, **settings)
    worker = guarded.harness.worker(APP, wait=False)
    assert worker.wait(60) == 1
    log = worker.log()
    assert said in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("variable", "url", "said"),
    [
        ("BROKER_URL", "amqp://u:hunter2/p@127.0.0.1//", "broker_url = amqp://***: cannot be read"),
        ("RESULT_BACKEND", "redis://:hunter2/p@127.0.0.1/0", "result_backend = redis://***: cannot be read"),
        ("GUARDED_STORE", "postgresql://u:p@ss:hunter2@127.0.0.1/d", "store.url = ***: cannot be read"),
    ],
)
def test_a_worker_ends_before_an_address_is_read_that_would_show_its_password(
    redis_broker: Broker, make_guarded: Callable[..., Guarded], variable: str, url: str, said: str
) -> None:
    guarded = make_guarded(redis_broker)
    worker = guarded.harness.worker(APP, wait=False, env={variable: url})
    assert worker.wait(60) == 1
    log = " ".join(worker.log().split())
    assert said in log
    assert "%40 for @" in log
    assert "hunter2" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("place", ["/dev/null/spool", "/proc/spool"])  # no directory, and one that takes nothing
def test_a_spool_that_cannot_be_written_is_said_once_at_start(
    redis_broker: Broker, make_guarded: Callable[..., Guarded], place: str
) -> None:
    guarded = make_guarded(redis_broker, dead_letter={"queue": "x.dead", "spool_dir": place})
    worker = guarded.harness.worker(APP)
    worker.wait_for_log(f"the spool {place}")
    assert worker.stop() == 0
    # the journal below it is said to be unwritable, too, in lines of its own
    fix = "Set dead_letter.spool_dir to a directory that this process may write to."
    (line,) = [line for line in worker.log().splitlines() if fix in line]
    assert f"the spool {place}" in line
    assert "WARNING" in line


def test_a_spool_that_can_be_written_is_not_mentioned(
    redis_broker: Broker, make_guarded: Callable[..., Guarded]
) -> None:
    guarded = make_guarded(redis_broker)
    worker = guarded.harness.worker(APP)
    assert worker.stop() == 0
    assert "the spool" not in worker.log()


def test_automatic_retries_beside_a_policy_stop_the_worker(
    redis_broker: Broker, make_guarded: Callable[..., Guarded]
) -> None:
    guarded = make_guarded(redis_broker)
    (guarded.harness.folder / "doubled.py").write_text(
        "from tests.apps.guarded import app\n"
        "from celery_guardrails import GuardedTask, Policy\n"
        "@app.task(base=GuardedTask, name='doubled', policy=Policy(owner='us'),\n"
        "          autoretry_for=(OSError,), max_retries=4, retry_backoff=2)\n"
        "def doubled(): ...\n"
    )
    worker = guarded.harness.worker("doubled", wait=False)
    assert worker.wait(60) == 1
    assert "task doubled: autoretry_for" in worker.log()
    assert "policy=Policy(retry_on=(OSError,), max_attempts=5, backoff=Exponential(2, factor=2, cap=600))" in (
        " ".join(worker.log().split())
    )
