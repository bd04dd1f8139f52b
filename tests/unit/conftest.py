"""Each unit test makes applications that know Celery's own tasks and theirs, not those that another test shared."""

from __future__ import annotations

import pytest
from celery import _state
from celery.app import builtins


@pytest.fixture(autouse=True)
def only_celerys_shared_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared task is otherwise registered with each application that the process makes later."""
    own = {made for made in _state._on_app_finalizers if made.__module__ == builtins.__name__}
    monkeypatch.setattr(_state, "_on_app_finalizers", own)
