"""The setting `metrics`: a guardian serves there from its start to its end, or says at once why it cannot."""

from __future__ import annotations

import json
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celery_guardrails.cli.daemon.assembly import assembled
from celery_guardrails.cli.daemon.command import serve
from celery_guardrails.cli.project import Project
from celery_guardrails.errors import ConfigurationError
from tests.port import reserve_port
from tests.unit.cli.conftest import Shop
from tests.unit.cli.deaths import dead
from tests.waiting import wait_until


@pytest.fixture
def listening(shop: Shop) -> Callable[[int], Project]:
    def made(port: int) -> Project:
        shop.app.conf.guardrails |= {
            "metrics": {"port": port},
            "dead_letter": {"queue": "shop.dead", "spool_dir": str(shop.path.parent / "spool")},
        }
        return Project(shop.app, "shop")

    return made


def test_a_guardian_serves_while_it_runs(shop: Shop, listening: Any) -> None:
    shop.archive(dead(1))
    port = reserve_port()
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(listening(port), stop))
    thread.start()

    def health() -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except OSError:
            return {}

    try:
        wait_until(lambda: health().get("status") == "well", 30, "a guardian that is well")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    finally:
        stop.set()
        thread.join(30)
    assert (
        'guardrails_dead_letters{environment="test",reason="attempts_exhausted",state="dead",task="shop.mail"} 1.0'
        in text
    )
    assert 'guardrails_sink_up{sink="log"} 1.0' in text
    assert "guardrails_spool_files 0.0" in text
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_its_start_says_where_it_serves(shop: Shop, listening: Any) -> None:
    shop.archive()
    port = reserve_port()
    with assembled(listening(port)) as assembly:
        assert f"metrics: http://127.0.0.1:{port}/metrics" in assembly.introduction()


def test_without_a_port_nothing_listens(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.archive()
    monkeypatch.setattr(socket.socket, "listen", lambda *_: pytest.fail("somebody listens"))
    with assembled(Project(shop.app)) as assembly:
        assert not any(line.startswith("metrics") for line in assembly.introduction())


def test_a_pass_of_once_serves_nothing(shop: Shop, listening: Any) -> None:
    shop.archive()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listening(taken.getsockname()[1])
        assert shop.run("guardian", "--once").exit_code == 0


def test_a_port_in_use_ends_the_guardian_at_its_start(shop: Shop, listening: Any) -> None:
    shop.archive()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        listening(port)
        result = shop.run("guardian")
    assert result.exit_code == 1
    assert f"metrics.port = {port}: is in use by another process (host 127.0.0.1)" in result.stderr


def test_without_prometheus_client_the_error_names_the_extra(
    shop: Shop, listening: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.archive()
    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("metrics", "metrics_server", "label"):
        monkeypatch.delitem(sys.modules, f"celery_guardrails.guardian.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigurationError) as raised, assembled(listening(reserve_port())):
        pass
    assert "needs prometheus-client, which is not installed" in str(raised.value)
    assert "pip install 'celery-guardrails[prometheus]'" in str(raised.value)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"port": 70_000}, "metrics.port = 70000: is more than 65535"),
        ({"port": 0}, "metrics.port = 0: is less than 1"),
        ({"port": "x"}, "metrics.port = 'x': is no whole number"),
        ({"prot": 9811}, "metrics.prot = ***: unknown key (did you mean port?)"),
        ({"host": "", "port": 9811}, "metrics.host = '': is empty"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, metrics: dict[str, Any], words: str) -> None:
    from celery_guardrails.settings import load_settings

    with pytest.raises(ConfigurationError) as raised:
        load_settings({"metrics": metrics}, {})
    assert words in str(raised.value)
