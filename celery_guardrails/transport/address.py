"""The addresses in an application's Celery configuration: their faults, found before anybody connects with them.

Owns which settings hold addresses, and whose rules each follows. If a password is not percent-encoded, kombu takes a
part of it for a port, and its error quotes that part. So nothing connects with such an address.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery import Celery

from celery_guardrails.errors import Fault
from celery_guardrails.redaction.address import ENCODE, broker_problem, database_problem, shown_address

__all__ = ["address_faults", "broker_fault"]

_BROKERS = ("broker_read_url", "broker_write_url", "broker_url")
# the schemes of addresses that kombu, or a result backend of Celery, parses by kombu's rules
_READ_BY_KOMBU = frozenset(
    ("amqp", "amqps", "librabbitmq", "py-amqp", "pyamqp", "redis", "rediss", "rpc", "sentinel", "sqs", "valkey")
)
_DATABASES = frozenset(("db", "sqla", "sqlalchemy"))


def address_faults(app: Celery) -> list[Fault]:
    """The faults in the addresses of an application's broker and of its result backend."""
    return [*_faults(app, _BROKERS), *_faults(app, ("result_backend",))]


def broker_fault(app: Celery, url: str | None = None) -> Fault | None:
    """The fault in the broker's addresses, or in this one; `None`: no fault that can be seen."""
    if url is not None:
        problem = _problem(url)
        return None if problem is None else Fault("broker_url", shown_address(url), problem, None, ENCODE)
    return next(iter(_faults(app, _BROKERS)), None)


def _faults(app: Celery, settings: tuple[str, ...]) -> list[Fault]:
    found: dict[Any, Fault] = {}
    for setting in settings:
        for url in _urls(app.conf.get(setting)):
            if problem := _problem(url):
                found[url] = Fault(setting, shown_address(url), problem, None, ENCODE)
    return list(found.values())


def _urls(value: Any) -> Iterator[str]:
    for url in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(url, str):
            yield url


def _problem(url: str) -> str | None:
    scheme = url.partition("://")[0]
    kind, _, rest = scheme.partition("+")
    if kind in _DATABASES:
        return database_problem(url[len(kind) + 1 :] if rest else url)
    return broker_problem(url) if kind in _READ_BY_KOMBU else None
