"""What `doctor` says of work that was put back and of which no worker has reported an end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from celery_guardrails import clock
from celery_guardrails.cli.doctor.checks import requeued
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, Level
from celery_guardrails.cli.project import Project
from celery_guardrails.recovery import transition
from tests.unit.cli.conftest import Shop
from tests.unit.cli.deaths import dead


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    made.close()


def put_back(shop: Shop, ages: dict[str, timedelta]) -> None:
    letters = [dead(number, task=task) for number, task in enumerate(ages)]
    store = shop.archive(*letters)
    for letter in letters:
        at = clock.now() - ages[letter.task]
        claim = transition.claim_requeue(store, letter.id, "ada@pc", "mended", at)
        transition.requeue_published(store, claim, at)


def found(shop: Shop) -> list[Finding]:
    context = Context(Project(shop.app, "shop"), online=False)
    try:
        return list(requeued.unreported(context))
    finally:
        context.close()


def test_what_may_still_run_or_retry_is_no_finding(shop: Shop) -> None:
    put_back(shop, {"shop.mail": timedelta(minutes=110), "gone.task": timedelta(minutes=50)})
    assert found(shop) == []


def test_what_runs_as_a_plain_task_is_named(shop: Shop) -> None:
    put_back(
        shop, {"vendor.sync": timedelta(hours=3), "shop.mail": timedelta(hours=5), "gone.task": timedelta(hours=2)}
    )
    mail, sync, gone = found(shop)
    assert {finding.level for finding in (mail, sync, gone)} == {Level.WARNING}
    assert mail.found == "shop.mail: no worker has reported the end of 1 requeued letter, the first requeued 5 h ago"
    assert "it is a plain task here" in sync.found
    assert "GuardedTask" in sync.fix
    assert gone.found.startswith("gone.task: no worker has reported")
    assert "celery -A shop guardrails dlq list 'task:gone.task state:requeued'" in gone.fix


def test_without_an_archive_it_says_nothing_of_its_own(shop: Shop) -> None:
    from celery_guardrails.cli.doctor.finding import Check, found_by

    context = Context(Project(shop.app, "shop"), online=False)
    assert found_by(Check("recoveries", requeued.unreported), context) == []
    context.close()
