"""Addresses whose password would be taken for a host or a port: found before anybody reads them."""

from __future__ import annotations

import contextlib

import pytest
from kombu.utils.url import parse_url
from sqlalchemy import make_url

from celery_guardrails.redaction.address import broker_problem, database_problem, service_problem, shown_address

BROKERS = [
    "amqp://guest:guest@localhost:5672//", "amqp://", "redis://localhost:6379/0", "redis://:pw@h/1", "memory://",
    "amqp://u:p@ss:pw@h", "amqp://u:p%2Fss@h/vhost", "rediss://u:p@[::1]:6379/0", "sentinel://a:1;sentinel://b:2",
    "redis://h/0?ssl_cert_reqs=none", "amqp://u@h/v@host", "filesystem://",
]  # fmt: skip
ODD_BROKERS = [
    "amqp://u:pa/ss@h", "amqp://u:p[ss@h:5672//", "redis://:pa/ss@h/0", "amqp://h:port/", "amqp://u:12/ss@h",
    "amqp://a:1;amqp://u:pa/ss@h", "amqp://u:1;w@h", "amqp://u:p\nw@h", "redis://h:99999/0",
    "redis://:p@ss#pw@127.0.0.1:1/1", "redis://:pw#ss@h/1",
]  # fmt: skip
DATABASES = [
    "sqlite:///guardrails.sqlite3", "sqlite://", "sqlite:////srv/a b/c@d.db", "postgresql://u:p@h/d",
    "postgresql://u:p%40ss@h:5432/d", "postgresql+psycopg://h/d", "postgresql://u:pa/ss@h/d",
    "postgresql://u@[::1]:5432/d", "postgresql://u:p@h/d?sslrootcert=a@b" , "postgresql:///d",
]  # fmt: skip
ODD_DATABASES = [
    "postgresql://u:p@ss:pw@h/d", "postgresql://u:p@ss@h/d", "postgresql://u:p@h:pw/d", "postgresql://u:p@[h/d",
    "postgresql://u:p@h]/d", "postgresql://u:p w@h/d", "postgresql://u:p@h/d\nx", "postgresql://u:p?x@y@h/d",
]  # fmt: skip


@pytest.mark.parametrize("url", BROKERS)
def test_a_broker_that_can_be_read_is_left_alone(url: str) -> None:
    assert broker_problem(url) is None
    for part in url.split(";"):
        assert parse_url(part)["transport"]


@pytest.mark.parametrize("url", ODD_BROKERS)
def test_a_broker_that_cannot_is_named_without_its_parts(url: str) -> None:
    problem = broker_problem(url)
    assert problem is not None
    assert "ss" not in problem.replace("password", "")
    assert shown_address(url).endswith("://***")


@pytest.mark.parametrize("url", DATABASES[:-2])
def test_a_database_that_can_be_read_is_left_alone(url: str) -> None:
    assert database_problem(url) is None
    assert make_url(url)


@pytest.mark.parametrize("url", ODD_DATABASES)
def test_a_database_that_cannot_is_named(url: str) -> None:
    assert database_problem(url) is not None


def test_a_broker_without_a_right_scheme_is_named() -> None:
    assert "scheme" in (broker_problem("redis:://:ss@h/0") or "")


def test_a_wrong_port_is_named_as_one() -> None:
    assert database_problem("postgresql://shop:ss@db:54x32/x") == "has a port that is no number"


def test_sqlalchemy_takes_a_part_of_such_a_password_for_the_host() -> None:
    """Why these are refused, although not all of them are refused by whoever reads them."""
    assert make_url("postgresql://u:p@ss@h/d").host == "ss@h"
    for url in ODD_DATABASES[:2]:
        with contextlib.suppress(ValueError):
            assert make_url(url).host != "h"


@pytest.mark.parametrize("url", ["https://hooks.slack.com/services/T/B/x", "http://127.0.0.1:80/x", "https://a:b@h/x"])
def test_a_service_that_can_be_called_is_left_alone(url: str) -> None:
    assert service_problem(url) is None


@pytest.mark.parametrize(
    "url",
    ["hooks.slack.com/services/T", "htps://x/y", "https://h/a b", "https://h/a\n", "https://", "https://h:port/x", "",
     "https://u:pa/ss@h/x", "https:///x"],
)  # fmt: skip
def test_a_service_that_cannot_is_named(url: str) -> None:
    problem = service_problem(url)
    assert problem is not None
    assert not url or url not in problem


def test_what_is_shown_of_an_address_is_its_scheme() -> None:
    assert shown_address("postgresql+psycopg://u:p@h") == "postgresql+psycopg://***"
    assert shown_address("hunter2") == "***"
