"""The query language: what it reads, and what it says to a slip of the pen."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from celery_guardrails.errors import QueryError
from celery_guardrails.recovery.query import Query, Term, parse_query
from celery_guardrails.store.filter import FIELDS, INSTANT_FIELDS, YES_NO_FIELDS
from celery_guardrails.store.record import State

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


def test_the_example_of_the_documentation() -> None:
    text = 'task:billing.* error:Timeout* reason:deadline_exceeded arg.order_id:4711 since:2h text:"api key"'
    assert parse_query(text, NOW) == Query(
        (
            Term("task", "billing.*", glob=True),
            Term("error", "Timeout*", glob=True),
            Term("reason", "deadline_exceeded"),
            Term("arg.order_id", "4711"),
            Term("since", NOW - timedelta(hours=2)),
            Term("text", "api key"),
        )
    )


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
def test_an_empty_query_means_everything(text: str) -> None:
    assert parse_query(text, NOW) == Query()


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("!state:dead", Term("state", "dead", negated=True)),
        ('task:"billing.*"', Term("task", "billing.*")),
        ("text:100*", Term("text", "100*")),
        ('text:"say \\"no\\" \\\\ now"', Term("text", 'say "no" \\ now')),
        ("fingerprint:v1:abc", Term("fingerprint", "v1:abc")),
        ("arg.order.id-2:x", Term("arg.order.id-2", "x")),
        ("may_have_run:yes", Term("may_have_run", "yes")),
        ("may_have_run:maybe", None),
        ("may_have_run:y*", None),
        ("state:re*", Term("state", "re*", glob=True)),
        ("since:2026-11-01", Term("since", datetime(2026, 11, 1, tzinfo=timezone.utc))),
        ("before:2026-11-01T09:30Z", Term("before", datetime(2026, 11, 1, 9, 30, tzinfo=timezone.utc))),
        ("before:2026-11-01T09:30+02:00", Term("before", datetime(2026, 11, 1, 7, 30, tzinfo=timezone.utc))),
        ("since:90", None),
        ("since:1d", Term("since", NOW - timedelta(days=1))),
    ],
)
def test_one_term(text: str, term: Term | None) -> None:
    if term is None:
        with pytest.raises(QueryError):
            parse_query(text, NOW)
    else:
        assert parse_query(text, NOW) == Query((term,))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("taks:x", "taks:x: there is no field 'taks' .did you mean 'task'"),
        ("Task:x", "did you mean 'task'"),
        ("args.order:x", "there is no field"),
        ("arg.:x", "there is no field 'arg.'"),
        ("state:ded", "state is one of dead, requeued, recovered, discarded .did you mean 'dead'"),
        ("reason:deadline", "reason is one of .*did you mean 'deadline_exceeded'"),
        ('category:""', "category needs a value"),
        ("task:", "task needs a value"),
        ("timeout", "timeout: a term is field:value .did you mean 'text:timeout'"),
        ("!", "a term is field:value"),
        ('text:"api key', "a quote is not closed"),
        ('text:"a"b', "with the value in double quotes"),
        ('text:a"b"', "with the value in double quotes"),
        ("since:yesterday", "write a duration such as 2h or 14d, or an instant"),
        ("since:-2h", "write a duration"),
        ("since:2h task:x oops", "oops: a term is field:value"),
    ],
)
def test_a_slip_is_named(text: str, problem: str) -> None:
    with pytest.raises(QueryError, match=problem):
        parse_query(text, NOW)


def test_a_query_can_be_narrowed() -> None:
    query = parse_query("task:x", NOW).with_term("state", State.DEAD).with_term("task", "b*", glob=True)
    assert query.terms == (Term("task", "x"), Term("state", "dead"), Term("task", "b*", glob=True))


@given(
    field=st.sampled_from(
        [f for f in FIELDS if f not in (*INSTANT_FIELDS, *YES_NO_FIELDS, "state", "reason", "category")]
    ),
    value=st.text(min_size=1),
)
def test_a_quoted_value_is_read_as_it_stands(field: str, value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_query(f'queue:a {field}:"{quoted}" !queue:b', NOW).terms[1] == Term(field, value)


@given(st.text())
@example("since:9999999999999d")
@example("since:3650d")
@example("since:0001-01-01T00:00+23:00")
@example("before:9999-12-31T23:59-23:00")
def test_any_text_is_read_or_refused_as_a_query(text: str) -> None:
    try:
        assert isinstance(parse_query(text, NOW), Query)
    except QueryError as exc:
        assert str(exc)  # noqa: PT017
