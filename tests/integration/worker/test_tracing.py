"""A real worker with OpenTelemetry's official instrumentation: a task's whole life is one trace, and linked."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness
from tests.integration.worker.test_journal import kill
from tests.published import publish, task_message
from tests.waiting import wait_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SENDER = "00f067aa0ba902b7"
FROM = {"traceparent": f"00-{TRACE}-{SENDER}-01", "tracestate": "vendor=1"}
ON = {"TRACED": "yes"}
BOUND = 60.0


class Traced(Guarded):
    """The traced application, and the spans of its workers."""

    def spans(self, name: str) -> list[dict[str, Any]]:
        """The spans of that name, the first begun first."""
        found = [span for span in self.runs("spans") if span["name"] == name]
        return sorted(found, key=lambda span: str(span["start_time"]))

    def wait_for_spans(self, name: str, count: int) -> list[dict[str, Any]]:
        wait_until(
            lambda: len(self.spans(name)) >= count, BOUND,
            lambda: f"{count} spans {name}, there are {[span['name'] for span in self.runs('spans')]}",
        )  # fmt: skip
        return self.spans(name)


@pytest.fixture
def traced(broker: Broker, harness: Harness, result_backend: str) -> Traced:
    """The traced application, once on Redis and once on RabbitMQ."""
    return Traced(harness, broker.url, result_backend, {}, "traced")


@pytest.fixture
def on_redis(redis_broker: Broker, harness: Harness, result_backend: str) -> Traced:
    """The same on Redis."""
    return Traced(harness, redis_broker.url, result_backend, {}, "traced")


def trace_of(span: dict[str, Any]) -> str:
    return str(span["context"]["trace_id"]).removeprefix("0x")


def id_of(span: dict[str, Any]) -> str:
    return str(span["context"]["span_id"])


def links_of(span: dict[str, Any]) -> list[str]:
    """The ids of the spans that a span is linked to."""
    for link in span["links"]:
        assert link["attributes"] == {"guardrails.link": "attempt_before"}
        assert link["context"]["trace_id"] == span["context"]["trace_id"]
    return [link["context"]["span_id"] for link in span["links"]]


def facts_of(span: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix("guardrails."): value
        for name, value in span["attributes"].items()
        if name.startswith("guardrails.")
    }


def test_the_context_travels_through_the_ways_of_a_retry(traced: Traced) -> None:
    traced.worker(env=ON)
    traced.tasks.flaky.apply_async(("late", 2), headers=FROM, countdown=1)
    traced.wait_for_runs("late", 3)
    runs = traced.wait_for_spans("run/traced.flaky", 3)
    published = traced.wait_for_spans("apply_async/traced.flaky", 2)
    assert {trace_of(span) for span in (*runs, *published)} == {TRACE}
    # each attempt is a child of the publish that sent it, which is a child of the attempt before
    assert [span["parent_id"] for span in runs] == [f"0x{SENDER}", *(id_of(span) for span in published)]
    assert [span["parent_id"] for span in published] == [id_of(span) for span in runs[:2]]


@pytest.mark.parametrize("name", ["flaky", "by_hand"])
def test_a_task_that_fails_twice_is_one_trace_with_its_attempts_in_a_chain(traced: Traced, name: str) -> None:
    traced.worker(env=ON)
    getattr(traced.tasks, name).apply_async(("chain", 2), headers=FROM)
    runs = traced.wait_for_spans(f"run/traced.{name}", 3)
    inner = {span["parent_id"]: id_of(span) for span in traced.spans("inner")}
    assert {trace_of(span) for span in runs} == {TRACE}
    before = [inner.get(id_of(span), id_of(span)) for span in runs[:2]]
    assert [links_of(span) for span in runs] == [[], [before[0]], [before[1]]]
    first, second, third = map(facts_of, runs)
    assert first.pop("fingerprint").startswith("v1:")
    assert first == {
        "task": f"traced.{name}", "task_id": first["task_id"], "attempt": 1, "max_attempts": 5, "outcome": "retried",
        "category": "connection", "error": "ConnectionError", "delay": 0.1, "queue": f"{traced.prefix}.tasks",
        "generation": 0,
    }  # fmt: skip
    assert second["attempt"] == 2
    assert third == {}  # it succeeded: nothing of ours


@pytest.mark.parametrize(("how", "kind"), [("hang", "time_limit"), ("kill_child", "worker_lost")])
def test_a_failure_that_only_the_main_process_sees_is_a_span_in_the_trace(traced: Traced, how: str, kind: str) -> None:
    traced.worker(env=ON)
    task = traced.tasks.ends.apply_async(("end", how), headers=FROM)
    (span,) = traced.wait_for_spans(f"guardrails {kind}", 1)
    assert (trace_of(span), span["parent_id"]) == (TRACE, f"0x{SENDER}")
    assert span["status"]["status_code"] == "ERROR"
    facts = facts_of(span)
    assert (facts["task"], facts["task_id"], facts["attempt"]) == ("traced.ends", task.id, 1)
    if kind == "time_limit":
        letter = traced.letter()
        assert (facts["reason"], facts["letter_id"], facts["outcome"]) == ("time_limit", letter.id, "dead")
        assert letter.span == f"00-{TRACE}-{id_of(span).removeprefix('0x')}-01"
        return
    assert (facts["outcome"], facts["reason"]) == ("retried", "worker_lost")
    (run,) = traced.wait_for_spans("run/traced.ends", 1)  # the killed process could not write the span of the first
    assert (trace_of(run), links_of(run)) == (TRACE, [id_of(span)])


def test_a_requeue_stays_in_the_trace_and_its_attempts_link_to_the_one_that_died(traced: Traced) -> None:
    traced.break_("requeued")
    traced.worker(env=ON)
    traced.tasks.mail.apply_async(("requeued", "nobody@example.org"), headers=FROM)
    first, died = traced.wait_for_spans("run/traced.mail", 2)
    facts = facts_of(died)
    assert (facts["outcome"], facts["reason"], facts["attempt"]) == ("dead", "attempts_exhausted", 2)
    assert died["status"]["status_code"] == "ERROR"
    once = traced.harness.run("tests.apps.traced", "guardian", "--once", env=ON)
    assert once.returncode == 0, once.stderr
    traced.repair("requeued")
    requeued = traced.harness.run(
        "tests.apps.traced", "guardrails", "dlq", "requeue", facts["letter_id"], "--reason", "mended", env=ON
    )
    assert requeued.returncode == 0, requeued.stderr
    runs = traced.wait_for_spans("run/traced.mail", 3)
    assert {trace_of(span) for span in runs} == {TRACE}
    assert [links_of(span) for span in runs] == [[], [id_of(first)], [id_of(died)]]


def test_messages_that_are_no_task_or_do_not_run_have_a_span(traced: Traced) -> None:
    traced.worker(env=ON)
    expired = traced.tasks.heard.s("expired").set(headers=FROM).apply_async(expires=-10)
    publish(
        traced.app,
        f"{traced.prefix}.tasks",
        [
            task_message("traced.gone", [1], {}, **FROM),
            task_message("traced.heard", [1], "password=hunter2xyz", **FROM),
        ],
    )
    for kind in ("unknown_task", "undecodable", "expired"):
        (span,) = traced.wait_for_spans(f"guardrails {kind}", 1)
        assert (trace_of(span), span["parent_id"]) == (TRACE, f"0x{SENDER}")
        facts = facts_of(span)
        letter = next(letter for letter in traced.letters(3) if letter.reason.value == kind)
        assert (facts["reason"], facts["letter_id"], facts["outcome"]) == (kind, letter.id, "dead")
        assert letter.span is not None
        assert "hunter2xyz" not in json.dumps(span)
        if kind == "expired":
            assert facts["task_id"] == expired.id


def test_a_revoked_task_has_a_span(on_redis: Traced) -> None:
    on_redis.worker("-c", "1", env=ON)
    on_redis.tasks.held.delay("held")
    on_redis.wait_for_runs("held", 1)
    task = on_redis.tasks.heard.apply_async(("revoked",), headers=FROM)
    on_redis.app.control.revoke(task.id, reply=True, timeout=5)
    (on_redis.runs_folder / "go").touch()
    (span,) = on_redis.wait_for_spans("guardrails revoked", 1)
    assert (trace_of(span), facts_of(span)["task_id"]) == (TRACE, task.id)
    assert on_redis.runs("revoked") == []


def test_a_waiting_task_that_somebody_cancels_has_a_span(on_redis: Traced) -> None:
    task = on_redis.tasks.heard.apply_async(("cancelled",), headers=FROM, countdown=600)
    listed = on_redis.harness.run("tests.apps.traced", "guardrails", "retries", "list", "--json")
    (waiting,) = json.loads(listed.stdout)
    done = on_redis.harness.run(
        "tests.apps.traced", "guardrails", "retries", "cancel", waiting["id"], "--reason", "not needed", env=ON
    )
    assert done.returncode == 0, done.stderr
    (span,) = on_redis.spans("guardrails cancelled")
    assert (trace_of(span), facts_of(span)["task_id"]) == (TRACE, task.id)
    assert on_redis.letter().span == f"00-{TRACE}-{id_of(span).removeprefix('0x')}-01"


def test_what_a_killed_worker_ran_has_a_span_of_the_next_worker(traced: Traced) -> None:
    worker = traced.worker("-c", "1", env=ON)
    traced.tasks.held_early.apply_async(("lost",), headers=FROM)
    traced.wait_for_runs("lost", 1)
    kill(worker)
    traced.worker("-c", "1", env=ON)
    (span,) = traced.wait_for_spans("guardrails worker_lost", 1)
    assert (trace_of(span), span["parent_id"]) == (TRACE, f"0x{SENDER}")
    letter = traced.letter()
    assert (letter.reason.value, letter.span) == ("worker_lost", f"00-{TRACE}-{id_of(span).removeprefix('0x')}-01")
    assert facts_of(span)["letter_id"] == letter.id


def test_a_cold_shutdown_has_a_span_and_the_task_goes_on_in_its_trace(on_redis: Traced) -> None:
    worker = on_redis.worker("-c", "1", env=ON)
    on_redis.tasks.held.apply_async(("cold",), headers=FROM)
    on_redis.wait_for_runs("cold", 1)
    worker.signal(signal.SIGQUIT)
    worker.wait()
    (span,) = on_redis.wait_for_spans("guardrails cancelled", 1)
    assert trace_of(span) == TRACE
    (on_redis.runs_folder / "go").touch()
    on_redis.worker("-c", "1", env=ON)
    (run,) = on_redis.wait_for_spans("run/traced.held", 1)
    assert (trace_of(run), run["parent_id"]) == (TRACE, f"0x{SENDER}")


def test_without_tracing_the_headers_pass_through(on_redis: Traced) -> None:
    on_redis.worker(env={"TRACED": ""})
    on_redis.break_("untraced")
    on_redis.tasks.mail.apply_async(("untraced",), headers=FROM)
    letter = on_redis.letter()
    assert {name: letter.message.headers[name] for name in FROM} == FROM
    assert letter.span is None
    assert on_redis.runs("spans") == []


def test_what_raises_in_tracing_changes_nothing(traced: Traced) -> None:
    worker = traced.worker(env={"TRACED": "raising"})
    traced.tasks.flaky.apply_async(("flaky", 2), headers=FROM)
    traced.wait_for_runs("flaky", 3)
    traced.tasks.ends.apply_async(("killed", "kill_child"), headers=FROM)
    traced.wait_for_runs("killed", 2)
    traced.tasks.ends.apply_async(("stuck", "hang"), headers=FROM)
    assert traced.letter().reason.value == "time_limit"
    traced.finish()
    worker.stop()
    assert worker.log().count("OpenTelemetry failed on what guardrails gave it") == 1
