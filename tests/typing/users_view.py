"""Not run, only type-checked: what people write who use the package, and what their type checker says of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from celery import Celery

from celery_guardrails import (
    Constant,
    Exponential,
    GuardedTask,
    Guardrails,
    Linear,
    PermanentError,
    Policy,
    Schedule,
    TransientError,
)

app = Celery("shop")
guard: Guardrails = Guardrails(app, guard=["vendor.*"])


def is_temporary(exc: BaseException) -> bool:
    return "try again" in str(exc)


class PaymentTask(GuardedTask):
    abstract = True
    policy = Policy(max_attempts=3, owner="payments", runbook="https://runbooks.example/pay")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


@app.task(base=PaymentTask, bind=True)
def pay(self: GuardedTask, order_id: int) -> None:
    try:
        raise TransientError("busy", retry_after=30)
    except TransientError as exc:
        raise self.retry(exc=exc, countdown=5) from exc


@app.task(
    base=GuardedTask,
    policy=Policy(
        retry_on=(TimeoutError, "requests.exceptions.ConnectionError", is_temporary),
        give_up_on=(ValueError,),
        max_attempts=None,
        deadline="2h",
        backoff=Exponential(base="5s", factor=3, cap="5m"),
        backoff_for={TimeoutError: Constant(3), "rate_limit": Linear("10s", "10s")},
        jitter=0.25,
        max_latency=timedelta(minutes=1),
    ),
)
def send_receipt(order_id: int) -> None:
    raise PermanentError("no such order")


schedule: Policy = Policy(backoff=Schedule(["5s", 15, timedelta(minutes=1)]), jitter="full")
owner: str | None = schedule.owner
attempts: int | None = schedule.max_attempts

Policy(max_atempts=3)  # type: ignore[call-arg]
Policy(max_attempts="3")  # type: ignore[arg-type]
Policy(acks="later")  # type: ignore[arg-type]
Policy(on_exhausted=True)  # type: ignore[arg-type]
schedule.owner = "me"  # type: ignore[misc]
PermanentError("x", retry_after=3)  # type: ignore[call-arg]
