"""The shop's Celery application. Nothing of guardrails is here: tasks bring it along, settings configure it."""

from __future__ import annotations

from celery import Celery

__all__ = ["app"]

app = Celery("shop", include=["example_project.shop.tasks"])
app.config_from_object("example_project.shop.settings")
