"""`alerts test` as a person types it: the real command, to stand-ins, with secrets around it."""

from __future__ import annotations

import json

from celery_guardrails.testing import SlackStandIn
from tests.integration.cli.conftest import ShopProcesses
from tests.web import Web


def test_every_place_is_tried_and_the_exit_code_says_whether_all_took_it(shop: ShopProcesses) -> None:
    with SlackStandIn() as slack, Web() as web:
        routes = json.dumps({"#billing": "vendor.*", web.apprise_url: "shop.import"})
        env = {
            "GUARDRAILS_SLACK_TOKEN": "xoxb-hunter2xyz", "GUARDRAILS_SLACK_CHANNEL": "#alerts",
            "GUARDRAILS_SLACK_BASE_URL": slack.base_url, "SHOP_ROUTES": routes,
        }  # fmt: skip
        well = shop.run("guardrails", "alerts", "test", **env)
        assert well.returncode == 0, well.stderr
        assert [line.split()[0] for line in well.stdout.splitlines()] == ["sent"] * 4
        assert [len(slack.in_channel(name)) for name in ("#alerts", "#billing")] == [1, 1]
        assert len(web.posted) == 1

        slack.script("chat.postMessage", "ok", "not_in_channel")
        failing = shop.run("guardrails", "alerts", "test", "--json", **env)
        assert failing.returncode == 1, failing.stderr
        found = json.loads(failing.stdout)
        assert [each["sent"] for each in found] == [True, False, True, True]
        assert found[1]["fix"] == "in Slack, invite the bot to #billing: /invite @its-name"
        said = well.stdout + well.stderr + failing.stdout + failing.stderr
        assert not [secret for secret in ("hunter2xyz", "t0ken") if secret in said]
