"""What applications declare: guarded tasks, and tasks put under guard by name."""

from __future__ import annotations

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.task.adopt import adopt
from celery_guardrails.task.guarded import GuardedTask, GuardMixin

__all__ = ["GuardMixin", "GuardedTask", "Guardrails", "adopt"]
