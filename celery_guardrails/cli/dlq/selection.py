"""Which dead letters a command line means: it makes query terms and options into one query.

It must not know what is done with the letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from celery_guardrails import clock
from celery_guardrails.cli.project import Project
from celery_guardrails.policy.decision import Reason
from celery_guardrails.recovery import search
from celery_guardrails.recovery.query import parse_query
from celery_guardrails.store.filter import Query
from celery_guardrails.store.record import State

__all__ = ["build_query", "is_query", "query_options"]

_OPTIONS = (
    click.argument("query", nargs=-1),
    click.option("--task", metavar="NAME", help="Only of this task; * stands for anything."),
    click.option("--state", type=click.Choice([s.value for s in State]), help="Only in this state."),
    click.option(
        "--reason",
        type=click.Choice([r.value for r in Reason]),
        help="Only dead for this reason. Tables show permanent_error as `not retried`, the others as they are here.",
    ),
)


def query_options(command: Any) -> Any:
    """Add QUERY and the most used filters to a command that reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def build_query(
    project: Project,
    terms: Sequence[str],
    *,
    task: str | None = None,
    state: str | None = None,
    reason: str | None = None,
) -> Query:
    """The query that terms and options make together.

    Raises:
        QueryError: a term is wrong (the error names the nearest right one), or asks for an argument that no letter
            keeps.
    """
    query = parse_query(" ".join(terms), clock.now())
    for field, value in (("task", task), ("state", state), ("reason", reason)):
        if value is not None:
            query = query.with_term(field, value, glob="*" in value)
    search.require_kept(project.archive, query)
    return query


def is_query(words: Sequence[str]) -> bool:
    """Whether these are terms of a query, and not ids: an id has no colon."""
    return any(":" in word for word in words)
