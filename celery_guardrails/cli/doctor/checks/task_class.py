"""Tasks that guardrails cannot serve as they are declared: batch tasks, `async def`."""
# on its own: each group of the doctor's checks is a file, however short

from __future__ import annotations

from collections.abc import Iterator

from celery_guardrails.app.caveat import caveats
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, warning

__all__ = ["declared"]


def declared(context: Context) -> Iterator[Finding]:
    """What guardrails cannot do for a guarded task, one finding each."""
    for caveat in caveats(context.guarded if context.settings.enabled else ()):
        yield warning(f"{caveat.task} {caveat.found}", caveat.fix)
