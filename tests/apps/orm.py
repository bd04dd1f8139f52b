"""A Django project's tasks: they write through the ORM, on a worker that has Celery's own Django fixup."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.apps.orm_settings")

import django
from celery import Celery
from django.db import models

from celery_guardrails import Constant, GuardedTask, Policy

django.setup()

app = Celery("orm", broker=os.environ.get("BROKER_URL", "memory://"))
app.conf.task_ignore_result = True
app.conf.guardrails = {"environment": "test", "dead_letter": {"queue": "orm.dead"}}


class Order(models.Model):
    number = models.IntegerField(unique=True)

    class Meta:
        app_label = "shop"
        db_table = "shop_order"


@app.task(
    base=GuardedTask,
    name="orm.order",
    shared=False,
    policy=Policy(max_attempts=60, backoff=Constant("1s"), jitter="none"),
)
def order(number: int) -> None:
    Order.objects.create(number=number)
