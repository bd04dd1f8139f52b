"""An application with wrong policies and settings, for `guardrails check`."""

from celery import Celery

from celery_guardrails import Exponential, GuardedTask, Policy

app = Celery("broken_app", broker="memory://")
app.conf.guardrails = {
    "enviroment": "test",
    "policies": {"billing.*": {"max_atempts": 3}},
    "guard": ["nothing.*"],
}


@app.task(base=GuardedTask, name="billing.charge", policy=Policy(max_attempts=0, deadlin="2h"))
def charge() -> None:
    """Two wrong fields."""


@app.task(base=GuardedTask, name="billing.refund", policy=Policy(backoff=Exponential("5 parsecs")))
def refund() -> None:
    """A wrong duration."""


@app.task(base=GuardedTask, name="billing.retried", policy=Policy(), autoretry_for=(ValueError,))
def retried() -> None:
    """Both would retry."""
