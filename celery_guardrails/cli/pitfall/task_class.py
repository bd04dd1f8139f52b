"""Tasks that guardrails cannot serve as they are declared: batch tasks, `async def`."""

from __future__ import annotations

from collections.abc import Iterator

from celery_guardrails.cli.pitfall.context import Context
from celery_guardrails.cli.pitfall.finding import Finding, warning
from celery_guardrails.worker.caveat import caveats

__all__ = ["declared"]


def declared(context: Context) -> Iterator[Finding]:
    """What guardrails cannot do for a guarded task, one finding each."""
    for caveat in caveats(context.guarded if context.settings.enabled else ()):
        yield warning(f"{caveat.task} {caveat.found}", caveat.fix)
