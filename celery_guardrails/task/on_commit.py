"""`delay_on_commit` for guarded tasks in a Django project: what Celery's own task class for Django adds.

Celery gives an application that class only where no other base or `task_cls` is chosen, as ours is. Owns asking whether
Celery's Django fixup is active. It must not need Django anywhere else.
"""
# on its own: it knows Celery's Django fixup, and guarded.py knows no Django

from __future__ import annotations

from typing import Any

from celery import Celery

from celery_guardrails.seams import ON_COMMIT, holds

__all__ = ["install_on_commit"]

_FIXUP = "celery.fixups.django"


def install_on_commit(cls: Any, app: Celery) -> None:
    """Give a guarded task class what Celery's `DjangoTask` has, where the application's Django fixup is active.

    What the class has of its own, or from `DjangoTask`, stays.
    """
    if not holds(ON_COMMIT) or not any(type(fixup).__module__ == _FIXUP for fixup in app._fixups or ()):
        return
    from celery.contrib.django.task import DjangoTask  # needs Django

    for name, method in vars(DjangoTask).items():
        if callable(method) and not name.startswith("_") and not hasattr(cls, name):
            setattr(cls, name, method)
