"""`guardrails check --migrate`: what to write for tasks that use Celery's own options."""

from __future__ import annotations

from celery_guardrails import GuardedTask, Policy
from tests.unit.cli.conftest import Shop, lines


def test_each_task_with_options_gets_its_policy(shop: Shop) -> None:
    @shop.app.task(shared=False, name="shop.sync", autoretry_for=(ConnectionError,), retry_backoff=True, max_retries=3)
    def sync() -> None: ...

    @shop.app.task(shared=False, name="shop.charge", max_retries=2, acks_late=True)
    def charge() -> None: ...

    (first, second) = shop.json("check", "--migrate")
    assert second == {
        "task": "shop.sync",
        "guarded": False,
        "acks_today": "early",
        "options": {"autoretry_for": "(ConnectionError,)", "max_retries": "3", "retry_backoff": "True"},
        "policy": 'Policy(retry_on=(ConnectionError,), max_attempts=4, backoff=Exponential("1s", factor=2, cap="10m"), '
        'jitter="full", deadline=None)',
        "leave_out": ["autoretry_for", "max_retries", "retry_backoff"],
        "notes": [],
    }
    assert (first["task"], first["acks_today"]) == ("shop.charge", "late")
    result = shop.run("check", "--migrate")
    assert result.exit_code == 0
    assert "  base=GuardedTask, policy=Policy(" in lines(result.stdout)
    assert "      max_attempts=4," in lines(result.stdout)
    said = lines(result.stderr)
    assert said[0] == (
        "2 tasks have retry options of Celery's; 1 without such options, for which base=GuardedTask is enough; "
        "2 under guard already."
    )
    assert said[-1].startswith("2 tasks are acknowledged early today")


def test_where_no_task_has_options_it_says_so(shop: Shop) -> None:
    result = shop.run("check", "--migrate")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr.startswith("0 tasks have retry options of Celery's; 1 without such options")
    assert shop.json("check", "--migrate") == []


def test_what_is_no_policy_together_is_an_error(shop: Shop) -> None:
    shop.app.conf.guardrails = {"policies": {"shop.poll": {"deadline": None}}}

    @shop.app.task(shared=False, base=GuardedTask, name="shop.poll", policy=Policy(owner="mail"), max_retries=None)
    def poll() -> None: ...

    result = shop.run("check", "--migrate")
    assert result.exit_code == 1
    assert "Error: shop.poll: deadline" in result.stderr
