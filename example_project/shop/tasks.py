"""The shop's tasks. Each is an ordinary Celery task on another base class, with a policy that says what may fail.

Delays are seconds, so that the demo can be watched. In production you would leave out `backoff` and `max_attempts`,
and have five attempts over about half an hour.
"""

from __future__ import annotations

import json
import smtplib
import urllib.request
from email.message import EmailMessage
from typing import Any

from celery_guardrails import Exponential, GuardedTask, Policy
from example_project.shop import settings
from example_project.shop.celery import app

__all__ = ["deliver_webhook", "import_order", "onboarding_email", "sales_report"]

_SMTP_TIMEOUT = 0.75
_HTTP_TIMEOUT = 5.0


class MailTask(GuardedTask):
    """What goes through the mail provider. Every task of this class has its policy."""

    policy = Policy(
        max_attempts=4,
        backoff=Exponential("1s", factor=2, cap="30s"),
        jitter=0.25,
        owner="growth team",
        runbook="https://wiki.example.com/runbooks/mail-provider",
    )


@app.task(
    base=MailTask,
    name="shop.onboarding_email",
    policy=Policy(affected_by=("email",), correlate=("customer_id",)),
)
def onboarding_email(customer_id: int, email: str) -> None:
    """Welcome a new customer.

    Raises:
        OSError: the provider cannot be reached, or does not answer in time. The policy retries that.
        smtplib.SMTPException: the provider refuses. The policy retries a 4yz answer, and gives up on a 5yz one.
    """
    letter = EmailMessage()
    letter["From"], letter["To"], letter["Subject"] = "hello@shop.example.com", email, "Welcome to the shop"
    # The same customer's letter has the same id, however often this runs: a provider may drop the second one.
    letter["Message-ID"] = f"<onboarding-{customer_id}@shop.example.com>"
    letter.set_content("We are glad that you are here.")
    with smtplib.SMTP(settings.smtp_host, int(settings.smtp_port), timeout=_SMTP_TIMEOUT) as provider:
        provider.send_message(letter)


@app.task(base=GuardedTask, name="shop.deliver_webhook", policy=Policy(deadline="10m", correlate=("order_id",)))
def deliver_webhook(order_id: int, total_cents: int) -> None:
    """Tell the partner of an order.

    Raises:
        OSError: the partner cannot be reached, or answers with an error; HTTP 429 and 5xx are retried, 4xx are not.
    """
    body = json.dumps({"order_id": order_id, "total_cents": total_cents}).encode()
    request = urllib.request.Request(settings.partner_url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT):
        pass


@app.task(base=GuardedTask, name="shop.import_order", policy=Policy(owner="orders team", correlate=("order_id",)))
def import_order(order_id: int, lines: list[dict[str, Any]]) -> int:
    """Take over an order from the marketplace, and return the average price of its lines in cents.

    It has a bug: an order may have no lines. The policy retries only what it knows to be transient, so a bug is
    dead-lettered at once.
    """
    return sum(int(line["price_cents"]) for line in lines) // len(lines)


@app.task(base=GuardedTask, name="shop.sales_report", policy=Policy(owner="finance team"))
def sales_report() -> str:
    """Write the report of the day's sales. Beat sends it, by `beat_schedule`."""
    return "written"
