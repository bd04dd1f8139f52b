"""`/metrics` and `/healthz` of a guardian, read over HTTP as Prometheus reads them."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from celery_guardrails.errors import ConfigurationError, PublishError
from celery_guardrails.figures.summary import Summary
from celery_guardrails.guardian import metrics_server
from celery_guardrails.guardian.health import Health
from celery_guardrails.guardian.label import OTHER, Labels
from celery_guardrails.guardian.metrics import GuardianMetrics, Sources
from celery_guardrails.guardian.metrics_server import MetricsServer
from celery_guardrails.policy.alert import Limits
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.threshold import UnreconciledThreshold
from celery_guardrails.recovery import transition
from celery_guardrails.store import alert, figure_beside, reconcile, tally
from celery_guardrails.store.engine import Store
from tests.contract.store.conftest import NOW, Mortuary
from tests.contract.store.test_figure import add, figures, summary

Serve = Callable[..., MetricsServer]
MINUTE = timedelta(minutes=1)
NAMES = {
    "guardrails_dead_letters", "guardrails_dead_letters_total", "guardrails_oldest_undecided_seconds",
    "guardrails_attempts_total", "guardrails_retry_rate", "guardrails_success_rate", "guardrails_start_delay_seconds",
    "guardrails_time_to_succeed_seconds", "guardrails_run_time_seconds", "guardrails_waiting_retries",
    "guardrails_alerts_open", "guardrails_sink_up", "guardrails_spool_files", "guardrails_guardian_lag_seconds",
    "guardrails_overdue", "guardrails_unreconciled", "guardrails_summaries_dropped_total", "guardrails_archive_up",
    "guardrails_broker_up", "guardrails_figures_cut_off_total", "guardrails_guardian_missed_total",
}  # fmt: skip


@pytest.fixture
def serve(store: Store) -> Iterator[Serve]:
    """Serves on a free port, with a guardian that has just looked at its queues."""
    with ExitStack() as closing:

        def started(**changes: Any) -> MetricsServer:
            times = iter([NOW, NOW])  # of its start, and of its turn
            health = Health(lambda: next(times, changes.get("now", lambda: NOW)()))
            health.turn()
            values: dict[str, Any] = {
                "waiting": lambda: 4,
                "spool_files": lambda: 2,
                "sinks": lambda: {"slack": True},
                "now": lambda: NOW,
            }
            host, port = changes.pop("host", "127.0.0.1"), changes.pop("port", 0)
            made = MetricsServer(host, port, Sources(store, "production", health, **values | changes))
            closing.callback(made.close)
            return made

        yield started


def get(server: MetricsServer, path: str, **request: Any) -> tuple[int, str, str]:
    made = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", **request)
    try:
        with urllib.request.urlopen(made, timeout=20) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.headers["Content-Type"], exc.read().decode()


def samples(server: MetricsServer) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Every sample by its name and labels."""
    status, kind, text = get(server, "/metrics")
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series = found.setdefault(sample.name, {})
            key = tuple(sorted(sample.labels.items()))
            assert key not in series, f"{sample.name} {key} twice"
            series[key] = sample.value
    return found


def labels(**given: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(given.items()))


def test_every_metric_says_what_stands_in_the_archive(mortuary: Mortuary, serve: Serve) -> None:
    dead = [mortuary.archive_new(died_at=NOW - minutes * MINUTE) for minutes in (90, 5)]
    put_back = mortuary.archive_new(task="shop.mail", reason=Reason.EXPIRED)
    transition.claim_requeue(mortuary.store, put_back.id, "ann", "mended", NOW)
    lost = summary(NOW, tasks={"shop.mail": figures(succeeded=6, retried=3, dead=1)})
    lost.note_dead(mortuary.letter().id, "shop.mail")
    add(mortuary.store, lost)
    with mortuary.store.begin() as conn:
        tally.add_deaths(conn, [*dead, put_back], NOW)
        for minutes in range(12, 0, -1):
            reconcile.note_counted(conn, [lost], NOW - 11 * MINUTE)
            reconcile.look_up(conn, NOW - minutes * MINUTE, backlog=False)
        alert.save_group(conn, alert.GroupRow("k", "production", "t", "open", 1, 0, {"severity": "critical"}), NOW)
    found = samples(serve(dropped={"late": 3}, overdue=lambda: ["shop.report"]))
    mine = {"environment": "production", "task": "billing.charge", "reason": "attempts_exhausted"}
    other = {"environment": "production", "task": "shop.mail", "reason": "expired"}
    assert found["guardrails_dead_letters"] == {labels(**mine, state="dead"): 2, labels(**other, state="requeued"): 1}
    assert found["guardrails_dead_letters_total"] == {labels(**mine): 2, labels(**other): 1}
    assert found["guardrails_oldest_undecided_seconds"] == {labels(**mine): 5400}
    wanted = {"succeeded": 6, "retried": 3, "dead": 1}
    assert found["guardrails_attempts_total"] == {
        labels(task="shop.mail", outcome=outcome): count for outcome, count in wanted.items()
    }
    assert found["guardrails_retry_rate"] == {labels(task="shop.mail"): 0.3}
    assert found["guardrails_success_rate"] == {labels(task="shop.mail"): 6 / 7}
    buckets = found["guardrails_run_time_seconds_bucket"]
    assert [buckets[labels(task="shop.mail", le=bound)] for bound in ("0.1", "0.25", "0.5", "+Inf")] == [0, 10, 10, 10]
    assert found["guardrails_run_time_seconds_sum"][labels(task="shop.mail")] == pytest.approx(2)
    assert found["guardrails_waiting_retries"] == {(): 4}
    assert found["guardrails_spool_files"] == {(): 2}
    assert found["guardrails_alerts_open"][labels(severity="critical")] == 1
    assert found["guardrails_sink_up"] == {labels(sink="slack"): 1}
    assert found["guardrails_unreconciled"] == {labels(environment="production", task="shop.mail"): 1}
    later = Limits(UnreconciledThreshold(), {"shop.mail": UnreconciledThreshold(after="1h")})
    assert "guardrails_unreconciled" not in samples(serve(missing=later))
    assert found["guardrails_overdue"] == {labels(task="shop.report"): 1}
    assert found["guardrails_summaries_dropped_total"][labels(reason="late")] == 3
    assert found["guardrails_guardian_lag_seconds"] == {(): 0}
    assert found["guardrails_archive_up"] == found["guardrails_broker_up"] == {(): 1}


def test_what_workers_counted_beside_the_figures_of_their_tasks(mortuary: Mortuary, serve: Serve) -> None:
    cut = Summary("cut", "production", "w@h", 1, 0, 0, others=7, dead_unlisted=2, no_guardian=1)
    with mortuary.store.begin() as conn:
        figure_beside.add(conn, [cut, cut, summary(NOW)])
        figure_beside.add(conn, [cut, Summary("elsewhere", "staging", "w@h", 1, 0, 0, others=5)])
    found = samples(serve())
    assert found["guardrails_figures_cut_off_total"] == {labels(what="attempts"): 21, labels(what="dead_letters"): 6}
    assert found["guardrails_guardian_missed_total"] == {(): 3}


def test_the_text_names_each_metric_with_its_type(serve: Serve) -> None:
    text = get(serve(), "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})[2]
    named = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert named == NAMES


def test_a_broker_that_is_away_takes_no_other_metric_with_it(mortuary: Mortuary, serve: Serve) -> None:
    mortuary.archive_new()

    def away() -> int:
        raise PublishError("waiting", "refused")

    found = samples(serve(waiting=away))
    assert found["guardrails_broker_up"] == {(): 0}
    assert "guardrails_waiting_retries" not in found
    assert len(found["guardrails_dead_letters"]) == 1


def test_what_is_not_known_is_left_out(serve: Serve) -> None:
    found = samples(serve(waiting=lambda: None, spool_files=lambda: None))
    assert {"guardrails_waiting_retries", "guardrails_spool_files"} & found.keys() == set()


def test_tasks_beyond_the_bound_are_added_up(store: Store) -> None:
    names = [f"shop.task{number:03}" for number in range(30)]
    add(store, summary(tasks={name: figures(succeeded=1) for name in names}))
    collector = GuardianMetrics(Sources(store, "production", Health(lambda: NOW), now=lambda: NOW), most_tasks=10)
    for _ in range(2):  # the same tasks each time
        (attempts,) = (family for family in collector.collect() if family.name == "guardrails_attempts")
        counts = {sample.labels["task"]: sample.value for sample in attempts.samples}
        assert counts == dict.fromkeys(names[:10], 1) | {OTHER: 20}


def test_a_task_keeps_its_label_whatever_comes_later() -> None:
    chosen = Labels(2)
    assert [chosen.of(task) for task in ("z", "y", "a", "z", "b")] == ["z", "y", OTHER, "z", OTHER]


def test_names_of_hostile_tasks_are_escaped(store: Store, serve: Serve) -> None:
    name = 'a"b\\c}#d'
    add(store, summary(tasks={name: figures(succeeded=1)}))
    assert samples(serve())["guardrails_attempts_total"] == {labels(task=name, outcome="succeeded"): 1}


def test_a_well_guardian_says_so(serve: Serve) -> None:
    status, kind, body = get(serve(), "/healthz")
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {"status": "well", "lag_seconds": 0, "problems": {}}


def test_a_guardian_that_is_not_well_says_what_is_away(serve: Serve) -> None:
    status, _, body = get(serve(now=lambda: NOW + MINUTE), "/healthz")
    assert (status, json.loads(body)["problems"]) == (
        503,
        {"the guardian": "it has not looked at its queues for 60 s"},
    )


def test_an_archive_that_does_not_answer_is_named_without_its_password(store: Store, serve: Serve, url: str) -> None:
    if not url.startswith("postgresql"):
        pytest.skip("a file answers for as long as it is there")
    health = Health(lambda: NOW)
    health.turn()
    from celery_guardrails.store.engine import open_store

    away = open_store("postgresql://shop:hunter2@127.0.0.1:1/none")
    server = MetricsServer("127.0.0.1", 0, Sources(away, "production", health, now=lambda: NOW))
    try:
        status, _, body = get(server, "/healthz")
        found = samples(server)
    finally:
        server.close()
        away.close()
    assert status == 503
    assert "the archive" in json.loads(body)["problems"]
    assert "hunter2" not in body
    assert found["guardrails_archive_up"] == {(): 0}
    assert "guardrails_guardian_lag_seconds" in found


@pytest.mark.parametrize(("path", "method", "wanted"), [("/", "GET", 404), ("/metrics", "POST", 405)])
def test_what_is_not_there_is_refused(serve: Serve, path: str, method: str, wanted: int) -> None:
    assert get(serve(), path, method=method)[0] == wanted


def test_the_archive_is_read_once_in_a_while_however_many_scrape(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    monkeypatch.setattr(metrics_server, "_KEPT", 3600.0)
    server = serve(waiting=lambda: read.append(1) or 1)
    assert len({get(server, "/metrics")[2] for _ in range(5)}) == 1
    assert len(read) == 1


def test_a_client_that_says_nothing_keeps_nobody_waiting(serve: Serve) -> None:
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port)):
        assert get(server, "/healthz")[0] == 200


def test_a_port_in_use_is_a_clear_error(serve: Serve) -> None:
    taken = serve()
    with pytest.raises(
        ConfigurationError, match=r"metrics.port = \d+: is in use by another process \(host 127.0.0.1\)"
    ):
        serve(port=taken.port)


@pytest.mark.parametrize(
    ("host", "words"),
    [("no.such.host.invalid", "is not an address"), ("192.0.2.1", "does not have the address")],
)
def test_a_host_that_is_not_here_is_a_clear_error(serve: Serve, host: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        serve(host=host)


def test_nothing_listens_after_the_end(serve: Serve) -> None:
    server = serve()
    server.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)
