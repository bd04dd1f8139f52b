"""One process's summary: what two hold together, its way over the wire, and what is refused."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.figures.histogram import BOUNDS, Histogram
from celery_guardrails.figures.reading import LONGEST_NAME, stored_name
from celery_guardrails.figures.summary import (
    MOST_ATTEMPTS,
    MOST_BYTES,
    MOST_DEAD,
    MOST_ERRORS,
    MOST_TASKS,
    AttemptOutcome,
    Summary,
    TaskFigures,
)
from tests.unit.figures.drawn import summaries


def a_summary(**changed: Any) -> Summary:
    given = {
        "id": "s1",
        "environment": "production",
        "worker": "celery@a",
        "pid": 7,
        "started_at": 10.0,
        "ended_at": 20.0,
    }
    return Summary(**{**given, **changed})


def as_json(**changed: Any) -> bytes:
    return json.dumps({**json.loads(a_summary().encode()), **changed}).encode()


def attempts(*found: Summary) -> int:
    return sum(each.others + sum(figures.attempts for figures in each.tasks.values()) for each in found)


def errors(*found: Summary) -> int:
    figures = [each for one in found for each in one.tasks.values()]
    return sum(each.other_errors + sum(each.errors.values()) for each in figures)


def durations(*found: Summary) -> int:
    figures = [each for one in found for each in one.tasks.values()]
    return sum(each.run_time.number + each.start_delay.number + each.time_to_succeed.number for each in figures)


@given(summaries())
def test_a_summary_survives_the_wire(summary: Summary) -> None:
    assert Summary.decode(summary.encode()) == summary


@given(summaries(), summaries())
def test_two_summaries_together_lose_no_count(one: Summary, other: Summary) -> None:
    merged, back = deepcopy(one), deepcopy(other)
    merged.merge(other)
    back.merge(one)
    assert attempts(back) == attempts(one, other)
    assert attempts(merged) == attempts(one, other)
    assert errors(merged) == errors(one, other)
    assert durations(merged) == durations(one, other)
    assert merged.dead == {**one.dead, **other.dead}
    assert merged.dead_unlisted == one.dead_unlisted + other.dead_unlisted
    assert merged.no_guardian == one.no_guardian + other.no_guardian
    assert Summary.decode(merged.encode()) == merged


def test_a_summary_that_is_full_still_counts_every_attempt() -> None:
    full, further = a_summary(), a_summary()
    for number in range(MOST_TASKS):
        full.tasks[f"task {number}"] = TaskFigures(outcomes={"succeeded": 1})
    for number in range(MOST_TASKS):
        further.tasks[f"other {number}"] = TaskFigures(outcomes={"succeeded": 2, "dead": 1})
    further.tasks["task 0"] = TaskFigures(outcomes={"dead": 5})
    full.merge(further)
    assert (len(full.tasks), full.others) == (MOST_TASKS, 3 * MOST_TASKS)
    assert full.tasks["task 0"].outcomes == {"succeeded": 1, "dead": 5}


def test_errors_beyond_the_most_are_counted_together() -> None:
    figures = TaskFigures()
    for number in range(MOST_ERRORS + 5):
        figures.count_error(f"v1:{number}", "ValueError", 2)
    figures.count_error("v1:0", "ValueError")
    assert (len(figures.errors), figures.errors["v1:0"], figures.other_errors) == (MOST_ERRORS, 3, 10)
    assert Summary.decode(a_summary(tasks={"a": figures}).encode()).tasks["a"] == figures


def test_letters_beyond_the_most_are_counted_without_their_ids() -> None:
    summary = a_summary()
    for number in range(MOST_DEAD + 3):
        summary.note_dead(f"letter {number}", "a")
    summary.note_dead("letter 0", "a")
    assert (len(summary.dead), summary.dead_unlisted) == (MOST_DEAD, 3)
    assert Summary.decode(summary.encode()) == summary


def test_the_largest_summary_may_be_read() -> None:
    long = "\U0001d54f" * LONGEST_NAME
    full = Histogram(dict.fromkeys(range(len(BOUNDS) + 1), 2**52), 1e300)
    figures = TaskFigures(
        outcomes={each.value: 2**52 for each in AttemptOutcome},
        succeeded_at_attempt=dict.fromkeys(range(1, MOST_ATTEMPTS + 1), 2**52),
        dead_at_attempt=dict.fromkeys(range(1, MOST_ATTEMPTS + 1), 2**52),
        errors={f"{number:03}{long}"[:LONGEST_NAME]: 2**52 for number in range(MOST_ERRORS)},
        error_types={f"{number:03}{long}"[:LONGEST_NAME]: long for number in range(MOST_ERRORS)},
        run_time=full,
        start_delay=full,
        time_to_succeed=full,
        last_started_at=1e9,
    )
    summary = a_summary(tasks={f"{number:03}{long}"[:LONGEST_NAME]: figures for number in range(MOST_TASKS)})
    summary.dead = {f"{number:036}": f"{number:04}{long}"[:LONGEST_NAME] for number in range(MOST_DEAD)}
    assert len(summary.encode()) < MOST_BYTES
    assert Summary.decode(summary.encode()) == summary


@given(st.text(max_size=600))
def test_any_name_can_be_counted(text: str) -> None:
    summary = a_summary()
    figures = summary.figures_of(stored_name(text))
    assert figures is not None
    assert list(Summary.decode(summary.encode()).tasks) == [stored_name(text)]


def test_fields_of_a_later_version_are_ignored() -> None:
    assert Summary.decode(as_json(weather="fine", tasks={"a": {"outcomes": {"dead": 1}, "mood": 3}})).tasks == {
        "a": TaskFigures(outcomes={"dead": 1})
    }


FULL = {"outcomes": {"dead": 1}}


HOSTILE = [
    b"",
    b"[]",
    b"null",
    b"{}",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"v":1}',
    b" " * (MOST_BYTES + 1),
    as_json(v=2),
    as_json(v=True),
    as_json(id=None),
    as_json(id="x" * 2**20),
    as_json(worker=""),
    as_json(worker="two\nlines"),
    as_json(environment="\ud800"),
    as_json(pid=-1),
    as_json(pid="7"),
    as_json(started_at=float("nan")),
    as_json(started_at=float("inf")),
    as_json(ended_at=-5),
    as_json(ended_at=1e300),
    as_json(ended_at=True),
    as_json(others=-1),
    as_json(others=1.5),
    as_json(others=2**60),
    as_json(tasks=[]),
    as_json(tasks="a"),
    as_json(tasks={"a": None}),
    as_json(tasks={"x" * 2**20: FULL}),
    as_json(tasks={"": FULL}),
    as_json(tasks={"a\x00b": FULL}),
    as_json(tasks={f"task {number}": FULL for number in range(MOST_TASKS + 1)}),
    as_json(tasks={"a": {"outcomes": {"won": 1}}}),
    as_json(tasks={"a": {"outcomes": {"dead": -1}}}),
    as_json(tasks={"a": {"outcomes": {"dead": "1"}}}),
    as_json(tasks={"a": {"outcomes": [1]}}),
    as_json(tasks={"a": {"succeeded_at_attempt": {"0": 1}}}),
    as_json(tasks={"a": {"succeeded_at_attempt": {"21": 1}}}),
    as_json(tasks={"a": {"succeeded_at_attempt": {"1": 1, "01": 1}}}),
    as_json(tasks={"a": {"dead_at_attempt": {"-1": 1}}}),
    as_json(tasks={"a": {"dead_at_attempt": {"9" * 5000: 1}}}),
    as_json(tasks={"a": {"errors": {f"v1:{number}": 1 for number in range(MOST_ERRORS + 1)}}}),
    as_json(tasks={"a": {"error_types": {"v1:1": 5}}}),
    as_json(tasks={"a": {"error_types": {"v1:1": "E" * 2**20}}}),
    as_json(tasks={"a": {"other_errors": -1}}),
    as_json(tasks={"a": {"run_time": []}}),
    as_json(tasks={"a": {"run_time": {"counts": {"1": 1}, "total": -1}}}),
    as_json(tasks={"a": {"run_time": {"counts": {"99": 1}, "total": 1}}}),
    as_json(tasks={"a": {"run_time": {"counts": {"1": 0}, "total": 1}}}),
    as_json(tasks={"a": {"start_delay": {"counts": {}, "total": float("nan")}}}),
    as_json(tasks={"a": {"last_started_at": "yesterday"}}),
    as_json(dead=["x"]),
    as_json(dead={"a": "x"}),
    as_json(dead={"a": [1]}),
    as_json(dead={"a": ["x" * 2**20]}),
    as_json(dead={"a": [f"letter {number}" for number in range(MOST_DEAD + 1)]}),
    as_json(dead={str(each): [f"{each} {number}" for number in range(1500)] for each in range(2)}),
    as_json(dead_unlisted=None),
    as_json(no_guardian=-1),
]


@pytest.mark.parametrize("body", HOSTILE, ids=[str(number) for number in range(len(HOSTILE))])
def test_what_is_no_summary_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Summary.decode(body)


@given(summaries(most_tasks=2), st.data())
def test_a_summary_with_one_field_replaced_is_read_or_refused(summary: Summary, data: st.DataObject) -> None:
    """Whatever stands in a field, nothing but a ValueError comes of it, and what is read can be sent again."""
    body = json.loads(summary.encode())
    odd = st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )
    body[data.draw(st.sampled_from(sorted(body)))] = data.draw(odd)
    try:
        read = Summary.decode(json.dumps(body).encode())
    except ValueError:
        return
    assert Summary.decode(read.encode()) == read
