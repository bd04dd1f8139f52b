"""Summaries for property tests: any that a worker may send."""

from __future__ import annotations

from hypothesis import strategies as st

from celery_guardrails.figures.histogram import BOUNDS, Histogram
from celery_guardrails.figures.reading import stored_name
from celery_guardrails.figures.summary import MOST_ATTEMPTS, AttemptOutcome, Summary, TaskFigures

NAMES = (st.text(min_size=1, max_size=5) | st.just("x" * 300)).map(stored_name)
COUNTS = st.integers(1, 2**40)
INSTANTS = st.integers(1, 4_000_000_000).map(float)
NUMBERS = st.integers(1, MOST_ATTEMPTS)


@st.composite
def histograms(draw: st.DrawFn) -> Histogram:
    counts = draw(st.dictionaries(st.integers(0, len(BOUNDS)), COUNTS, max_size=3))
    return Histogram(counts, draw(st.integers(0, 1000)) / 8 if counts else 0.0)


@st.composite
def figures(draw: st.DrawFn) -> TaskFigures:
    errors = draw(st.dictionaries(NAMES, COUNTS, max_size=2))
    return TaskFigures(
        outcomes=draw(st.dictionaries(st.sampled_from([each.value for each in AttemptOutcome]), COUNTS)),
        succeeded_at_attempt=draw(st.dictionaries(NUMBERS, COUNTS, max_size=2)),
        dead_at_attempt=draw(st.dictionaries(NUMBERS, COUNTS, max_size=2)),
        errors=errors,
        error_types={fingerprint: draw(NAMES) for fingerprint in errors},
        other_errors=draw(st.integers(0, 100)),
        run_time=draw(histograms()),
        start_delay=draw(histograms()),
        time_to_succeed=draw(histograms()),
        last_started_at=draw(st.none() | INSTANTS),
        last_succeeded_at=draw(st.none() | INSTANTS),
    )


@st.composite
def summaries(draw: st.DrawFn, most_tasks: int = 2) -> Summary:
    return Summary(
        id=draw(st.uuids().map(str)),
        environment=draw(NAMES),
        worker=draw(NAMES),
        pid=draw(st.integers(1, 2**22)),
        started_at=draw(INSTANTS),
        ended_at=draw(INSTANTS),
        tasks=draw(st.dictionaries(NAMES, figures(), max_size=most_tasks)),
        others=draw(st.integers(0, 1000)),
        dead=draw(st.dictionaries(st.uuids().map(str), NAMES, max_size=3)),
        dead_unlisted=draw(st.integers(0, 1000)),
        no_guardian=draw(st.integers(0, 3)),
    )
