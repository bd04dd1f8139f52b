"""The guarded application, in a worker that looks each second whether a guardian is there, for 4 seconds."""

from datetime import timedelta

from celery_guardrails.worker.main import figures, guardian_watch
from tests.apps.guarded import app

__all__ = ["app"]

figures.FiguresShipping.every = timedelta(seconds=1)
figures._REPORT = timedelta(seconds=0.5)
guardian_watch.PATIENCE = timedelta(seconds=4)
