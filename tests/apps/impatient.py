"""The guarded application, in a worker that tries again after a second what neither broker nor spool took."""

from celery_guardrails.worker.consumer import intake
from tests.apps.guarded import app

__all__ = ["app"]

intake.RETRY_SECONDS = 1.0
