"""The shop's Celery configuration. What is secret, or differs from machine to machine, comes from the environment.

BROKER_URL             the broker; default a SQLite file, which is good for a demo and for nothing else
SHOP_QUEUE             the queue's name; default `shop`
SHOP_SMTP              the mail provider, `host:port`
SHOP_PARTNER_URL       where webhooks go
GUARDRAILS_STORE_URL, GUARDRAILS_SLACK_TOKEN, ...   read by guardrails itself
"""

from __future__ import annotations

import os
from typing import Any

broker_url = os.environ.get("BROKER_URL", "sqla+sqlite:///shop-broker.sqlite3")
task_default_queue = os.environ.get("SHOP_QUEUE", "shop")
task_ignore_result = True
worker_prefetch_multiplier = 1
worker_enable_remote_control = False
broker_connection_retry_on_startup = True
broker_transport_options: dict[str, Any] = {}
if broker_url.startswith("sqla+sqlite:"):
    # Several processes share the file: let each wait for the others' writes rather than fail.
    broker_transport_options = {"connect_args": {"timeout": 30}}

smtp_host, _, smtp_port = os.environ.get("SHOP_SMTP", "127.0.0.1:8025").rpartition(":")
partner_url = os.environ.get("SHOP_PARTNER_URL", "http://127.0.0.1:8026/orders")

# The report has a queue, and so a worker, of its own. Beat sends it every 10 seconds, so that the demo can be watched.
task_routes = {"shop.sales_report": {"queue": f"{task_default_queue}.reports"}}
beat_schedule = {"sales-report": {"task": "shop.sales_report", "schedule": 10.0}}

guardrails: dict[str, Any] = {
    "environment": "production",
    "dead_letter": {"queue": f"{task_default_queue}.dead_letter"},
    "store": {"url": "sqlite:///shop-guardrails.sqlite3"},
    "slack": {"channel": "#shop-alerts"},
    "alerts": {
        # Nobody acknowledges an alert: ask more people. In production write minutes.
        "escalation": [{"after": "30s", "channel": "#shop-everybody"}],
        # Seconds, so that the demo can be watched. Leave these out: they are 30 seconds, one minute and two minutes.
        "group_wait": "1s",
        "edit_interval": "1s",
        "thresholds": {"overdue": {"grace": "5s"}},
    },
}
