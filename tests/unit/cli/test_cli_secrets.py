"""Addresses and webhooks that nobody can read as they are meant: faults of every command, without their secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Shop
from tests.unit.cli.deaths import dead

NEEDLES = ("hunter2", "p@ss", "pw@h", "xoxb")
STORES = ["postgresql://u:p@ss:pw@h/hunter2", "postgresql://u:p@[hunter2/d", "postgresql://u:p@h:hunter2/d"]
BROKERS = ["amqp://u:hunter2/p@h", "redis://:hunter2/p@h/0", "amqp://u:hunter2[p@h", "amqp://h:hunter2//"]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    """Makes a shop with these settings, closed after the test."""
    shops: list[Shop] = []

    def make(conf: dict[str, str] | None = None, **settings: Any) -> Shop:
        shop = Shop(tmp_path, **settings)
        shop.app.conf.update(conf or {})
        shops.append(shop)
        return shop

    yield make
    for shop in shops:
        shop.app.close()


def refused(shop: Shop, *words: str) -> str:
    """What a command says that refuses to do it; it ends by itself, with exit code 1 and without a traceback."""
    result = shop.run(*words)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1, result.output
    said = result.stdout + result.stderr
    assert not [needle for needle in NEEDLES if needle in said], said
    return said


@pytest.mark.parametrize(
    "words", [("doctor",), ("check",), ("dlq", "list"), ("guardian", "--once"), ("guardian", "--check")]
)
@pytest.mark.parametrize("url", STORES)
def test_an_archive_whose_address_cannot_be_read(made: Callable[..., Shop], url: str, words: tuple[str, ...]) -> None:
    said = refused(made(store={"url": url}), *words)
    assert "store.url" in said
    assert "***" in said


@pytest.mark.parametrize("words", [("doctor",), ("check",), ("guardian", "--once"), ("topology",)])
@pytest.mark.parametrize("url", BROKERS)
def test_a_broker_whose_address_cannot_be_read(made: Callable[..., Shop], url: str, words: tuple[str, ...]) -> None:
    said = refused(made({"broker_url": url}), *words)
    assert "broker_url" in said
    assert "percent-encode" in said


def test_a_result_backend_whose_address_cannot_be_read(made: Callable[..., Shop]) -> None:
    for url in ("redis://:hunter2/p@h/0", "db+postgresql://u:p@ss:pw@h/d"):
        assert "result_backend" in refused(made({"result_backend": url}), "doctor")


@pytest.mark.parametrize(
    "slack",
    [{"webhook_url": "hooks.slack.com/services/hunter2"}, {"webhook_url": "https://hooks.slack.com/services/hunter2 x"},
     {"webhook_url": "https://h/hunter2\nx"}, {"token": "xoxb-hunter2\n", "channel": "#a"}],
)  # fmt: skip
@pytest.mark.parametrize("words", [("alerts", "test"), ("check",), ("doctor",)])
def test_a_webhook_or_a_token_that_is_none(made: Callable[..., Shop], slack: Any, words: tuple[str, ...]) -> None:
    assert "slack." in refused(made(slack=slack), *words)


@pytest.mark.parametrize("words", [("doctor",), ("check",), ("alerts", "list"), ("guardian", "--once")])
def test_an_unknown_setting_shows_no_value(made: Callable[..., Shop], words: tuple[str, ...]) -> None:
    said = refused(made(store_url="postgresql://u:hunter2@h/d", alerts={"hook": "hunter2"}), *words)
    assert "store_url" in said
    assert "alerts.hook" in said


def test_a_reason_is_kept_without_its_secret(shop: Shop) -> None:
    shop.archive(dead(1))
    letter = shop.json("dlq", "list")[0]["id"]
    shop.json("dlq", "discard", letter, "--reason", "password=hunter2 was wrong")
    assert shop.json("dlq", "show", letter)["audit"][-1]["reason"] == "password=[redacted] was wrong"
