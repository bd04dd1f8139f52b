"""A Django project's Celery application; `DJANGO_SETTINGS_MODULE` is in the environment, as `manage.py` has it.

Run as a program it sends each of its tasks in a transaction that is committed, and in one that is rolled back.
"""

import functools
import os
from typing import Any

import django
from celery import Celery, Task
from celery.contrib.django.task import DjangoTask
from django.db import transaction

from celery_guardrails import GuardedTask, GuardMixin
from tests.apps.ends import ran

django.setup()

app = Celery("django_shop", task_cls=GuardedTask if os.environ.get("GUARDED_FOR_ALL") else None)
app.conf.update(
    broker_url=os.environ["BROKER_URL"],
    task_default_queue="django_shop.tasks",
    broker_connection_retry_on_startup=True,
    guardrails={"dead_letter": {"queue": "django_shop.dead"}, "guard": ["adopted.*"]},
)
task: Any = functools.partial(app.task, shared=False)


class Mixed(GuardMixin, DjangoTask):  # type: ignore[misc]
    abstract = True


@task(base=GuardedTask, name="based")
def based(key: str) -> None:
    ran(key, task="based")


@task(base=Mixed, name="mixed")
def mixed(key: str) -> None:
    ran(key, task="mixed")


@task(name="adopted.usual")
def adopted(key: str) -> None:
    ran(key, task="adopted")


@task(base=Task, name="plain")
def plain(key: str) -> None:
    ran(key, task="plain")


TASKS = (based, mixed, adopted)

if __name__ == "__main__":
    app.finalize()
    for one in TASKS:
        with transaction.atomic():
            one.delay_on_commit("committed")
            one.apply_async_on_commit(("committed",))
        try:
            with transaction.atomic():
                one.delay_on_commit("rolled-back")
                raise LookupError("the order is not valid")
        except LookupError:
            pass
    assert not hasattr(plain, "delay_on_commit")
    based.delay("done")
