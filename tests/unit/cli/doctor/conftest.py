"""Applications as the checks see them, without a connection to anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from celery_guardrails import GuardedTask, Policy
from celery_guardrails.cli.doctor.checks.catalogue import CHECKS
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, Level, found_by
from celery_guardrails.cli.project import Project

Offline = Callable[..., Context]


@pytest.fixture
def offline() -> Iterator[Offline]:
    """Makes the context of an application: `offline("redis", guardrails={...}, worker_pool="solo", late=True)`.

    It has one guarded task, `shop.mail`, and one plain one, `shop.plain`, with `plain` as its options.
    """
    apps = []

    def make(
        transport: str, *, plain: dict[str, Any] | None = None, mail: dict[str, Any] | None = None, **conf: Any
    ) -> Context:
        urls = {"redis": "redis://127.0.0.1:1/0", "amqp": "amqp://127.0.0.1:1//", "memory": "memory://"}
        app = Celery("shop", broker=urls.get(transport, "memory://"), set_as_current=False)
        app.conf.update(conf)
        apps.append(app)

        @app.task(shared=False, base=GuardedTask, name="shop.mail", policy=Policy(), **(mail or {}))
        def send() -> None: ...

        if plain is not None:

            @app.task(shared=False, name="shop.plain", **plain)
            def other() -> None: ...

        context = Context(Project(app), online=False)
        context.__dict__["transport"] = transport
        return context

    yield make
    for app in apps:
        app.close()


def bad(context: Context) -> list[tuple[str, Finding]]:
    """What the checks that need no connection warn of."""
    rows = [(check.name, finding) for check in CHECKS if check.offline for finding in found_by(check, context)]
    return [(name, finding) for name, finding in rows if finding.level is not Level.OK]
