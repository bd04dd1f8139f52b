"""Gives guarded tasks in a Django project `delay_on_commit`, as Celery's own task class for Django has it.

Celery uses that class only where the application chooses no base class and no `task_cls`, and ours is such a choice.
Owns the check whether Celery's Django fixup is active. Without an active fixup it must not need Django.
"""
# on its own: it knows Celery's Django fixup, and guarded.py knows no Django

from __future__ import annotations

from typing import Any

from celery import Celery

from celery_guardrails.seams import ON_COMMIT, holds

__all__ = ["install_on_commit"]

_FIXUP = "celery.fixups.django"


def install_on_commit(cls: Any, app: Celery) -> None:
    """Give a guarded task class the public methods of Celery's `DjangoTask`, if the app's Django fixup is active.

    Methods of these names that the class already has stay.
    """
    if not holds(ON_COMMIT) or not any(type(fixup).__module__ == _FIXUP for fixup in app._fixups or ()):
        return
    from celery.contrib.django.task import DjangoTask  # needs Django

    for name, method in vars(DjangoTask).items():
        if callable(method) and not name.startswith("_") and not hasattr(cls, name):
            setattr(cls, name, method)
