"""The rooms of a worker, and its door: what guardrails adds to a worker and to its consumer, each step by its name.

Owns where the steps are; which there are says `app/guardrails.py`. A step is imported when a worker starts: producers
need none of a worker's code. Where this release of Celery lacks what a step cannot be imported without, the worker ends
with words that say so.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from celery_guardrails.seam import explain

_HOMES = {
    "GuardStep": "main.steps", "SeamStep": "consumer.seam_step", "Housekeeping": "main.housekeeping",
    "TraceStep": "main.steps", "PoolStep": "main.prefork", "Postponing": "main.postpone", "Turns": "main.turn",
    "BindingStep": "consumer.binding", "Intake": "consumer.intake", "RedisStep": "consumer.redis",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{home}")
    except (ImportError, AttributeError) as exc:
        raise explain(exc) from exc
    return getattr(module, name)
