"""An application whose settings hold secrets, written in the way that `SECRETIVE` names: dict, module or Django."""

from __future__ import annotations

import os
import types
from typing import Any

from celery import Celery

from celery_guardrails import GuardedTask

SETTINGS: dict[str, Any] = {
    "environment": "staging",
    "store": {"url": f"{os.environ['SECRETIVE_STORE']}?passfile=seekrit-store"},
    "slack": {
        "token": "xoxb-seekrit-token",
        "channel": "#alerts",
        "webhook_url": "https://hooks.example.com/seekrit-hook",
        "proxy": "http://ada:seekrit-proxy@proxy.example.com",
    },
    "dead_letter": {"queue": "secretive.dead"},
}

app = Celery("secretive", broker=os.environ["BROKER_URL"], set_as_current=False)
app.conf.task_default_queue = "secretive.tasks"
way = os.environ["SECRETIVE"]
if way == "dict":
    app.conf.guardrails = SETTINGS
elif way == "late":
    app.conf.update(guardrails=SETTINGS)
elif way in ("CELERY_GUARDRAILS", "celery_guardrails"):
    namespace = "CELERY" if way.isupper() else "celery"
    module = types.SimpleNamespace(**{way: SETTINGS})
    app.config_from_object(module, namespace=namespace)
else:
    app.config_from_object({"guardrails": SETTINGS})


@app.task(base=GuardedTask, name="secretive.mail", shared=False)
def mail() -> None: ...
