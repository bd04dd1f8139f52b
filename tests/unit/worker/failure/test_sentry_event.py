"""An event of a dead letter as Sentry gets it: the parts that hold what a task was given or said, without secrets."""

from __future__ import annotations

from typing import Any

from celery_guardrails.letters.record import Preview
from celery_guardrails.redaction import MASK, Redactor
from celery_guardrails.worker.failure.sentry_event import event_processor

SECRET = "hunter2xyz"
SAID = f"password={SECRET}"


def processed(**event: Any) -> Any:
    return event_processor(Redactor(["maiden"]), Preview(args="(1,)", kwargs="{}"))(event, {})


def test_no_part_of_an_event_holds_a_secret() -> None:
    frame = {"function": "pay", "vars": {"password": f"'{SECRET}'", "maiden": SECRET, "user": f"Login({SAID})", "n": 3},
             "context_line": f"pay('{SAID}')", "pre_context": [SAID], "lineno": 3}  # fmt: skip
    above = {"module": "celery.app.trace", "vars": {"args": [f"'{SECRET}'"]}}
    trace = {"frames": [above, frame]}
    event = processed(
        exception={"values": [{"type": "ValueError", "value": SAID, "stacktrace": trace}, {"type": "X"}]},
        message=SAID,
        logentry={"message": "it said %s", "params": [SAID], "formatted": f"it said {SAID}"},
        extra={"celery-job": {"args": [SECRET], "kwargs": {"x": SECRET}}, "token": SECRET},
        tags={"guardrails.task": "shop.pay", "said": SAID},
        contexts={"trace": {"trace_id": "a1"}, "guardrails": {"runbook": f"https://u:{SECRET}@wiki"}},
        breadcrumbs={"values": [{"message": SAID, "data": {"url": f"redis://:{SECRET}@h", "token": SECRET}}]},
        level="error",
    )
    assert SECRET not in repr(event)
    assert event["exception"]["values"][0]["value"] == f"password={MASK}"
    assert event["exception"]["values"][0]["stacktrace"]["frames"][1]["vars"]["n"] == 3
    assert event["extra"]["celery-job"] == {"args": "(1,)", "kwargs": "{}"}
    assert event["contexts"]["trace"] == {"trace_id": "a1"}
    assert (event["tags"]["guardrails.task"], event["level"]) == ("shop.pay", "error")


def test_what_sentry_has_hidden_itself_stays() -> None:
    job = {"task_name": "shop.pay", "args": "[Filtered]", "kwargs": "[Filtered]"}
    assert processed(extra={"celery-job": dict(job)})["extra"]["celery-job"] == job


def test_a_part_of_an_unknown_shape_is_left_out_and_the_event_is_sent() -> None:
    event = processed(exception=[SECRET], message="fine")
    assert event == {"message": "fine"}
    assert processed(extra=None, tags=None, exception={"values": None}, breadcrumbs=[{"message": SAID}])


def test_whatever_part_of_an_event_holds_a_secret_it_is_hidden() -> None:
    frame = {"module": "shop.pay", "vars": {"conf": f"{{'db': {{'password': '{SECRET}'}}}}", "argv": ["--pin", SECRET]},
             "context_line": f"password = '{SECRET}'", "post_context": [f"token='{SECRET}'"]}  # fmt: skip
    own = {
        "event_id": "a1",
        "platform": "python",
        "sdk": {"name": "sentry.python"},
        "timestamp": "2026-11-29",
    }
    event = processed(
        **own,
        exception={"values": [{"value": "x", "mechanism": {"type": "celery", "data": {"password": SECRET}}}]},
        threads={"values": [{"id": 4, "stacktrace": {"frames": [frame]}}]},
        request={"headers": {"Authorization": SECRET}, "data": {"pin": SECRET}, "query_string": f"token={SECRET}"},
        user={"id": 7, "token": SECRET},
        spans=[{"span_id": "b2", "description": f"WHERE password='{SECRET}'", "data": {"db.password": SECRET}}],
        transaction=f"pay token={SECRET}",
        contexts={"trace": {"trace_id": "a1", "data": {"password": SECRET}}, "celery": {"kwargs": {"maiden": SECRET}}},
        extra={"sys.argv": ["celery", "--password", SECRET], SAID: 1, "none": {"token": None}},
        logentry={"message": "m %s", "params": ["password", SECRET]},
    )
    assert SECRET not in repr(event)
    assert {key: event[key] for key in own} == own
    assert (event["user"]["id"], event["spans"][0]["span_id"], event["threads"]["values"][0]["id"]) == (7, "b2", 4)
    assert event["contexts"]["trace"]["trace_id"] == "a1"
    assert event["extra"]["none"] == {"token": None}


def test_of_a_huge_event_no_more_than_is_bounded_is_looked_at() -> None:
    deep: Any = SECRET
    for _ in range(5_000):
        deep = {"x": deep}
    event = processed(extra={"deep": deep, "wide": [{"n": n} for n in range(100_000)]})
    assert SECRET not in repr(event)
    assert event["extra"]["wide"][0] == {"n": 0}
    assert event["extra"]["wide"][-1] == "..."
