"""Whether the installed Celery and its family have the private names that guardrails uses."""
# on its own: each group of the doctor's checks is a file, however short

from __future__ import annotations

from collections.abc import Iterator

from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, fault, fine, warning
from celery_guardrails.seam import by_guard, releases, remedy
from celery_guardrails.seams import SEAMS, missing

__all__ = ["seams"]

_REDIS = "kombu.transport.redis"


def seams(context: Context) -> Iterator[Finding]:
    """Each guard that is off in a worker, or keeps a worker from starting, because Celery lacks a name it needs."""
    found = [each for each in missing() if context.transport == "redis" or not each.seam.name.startswith(_REDIS)]
    for guard, text in by_guard(found):
        yield (fault if guard.vital else warning)(f"{releases()}: {text}", remedy())
    if not found:
        yield fine(f"{releases()} has all {len({seam.name for seam in SEAMS})} private names that guardrails uses")
