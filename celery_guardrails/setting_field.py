"""How each setting is read that is more than a text or a number: to what the rest relies on, or a problem in words.

Owns the types of those fields of `settings.py`, as `policy/field.py` does for a policy's. What may be a secret, or have
one in it, is never quoted by a problem.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, PlainValidator, SecretStr

from celery_guardrails.destination import Destination, read_destination
from celery_guardrails.policy.faults import HIDDEN
from celery_guardrails.policy.field import problem, read_names
from celery_guardrails.redaction.address import ENCODE, database_problem, service_problem

__all__ = [
    "DatabaseUrl",
    "DestinationField",
    "GroupByField",
    "LedgerUrl",
    "PatternsField",
    "ProxyUrl",
    "SecretUrl",
    "ServiceUrl",
    "Token",
]

_MENTION = re.compile(r"<(@[UW][A-Z0-9]+|!subteam\^S[A-Z0-9]+|!here|!channel|!everyone)>")


def _read_group_by(value: Any) -> tuple[str, ...]:
    names = read_names(value)
    if set(names) not in ({"task"}, {"task", "error"}):
        raise problem(value, 'is not ("task",) or ("task", "error")')
    return names


def _read_patterns(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise problem(value, "is one string, not a list of patterns", f"write ({value!r},)")
    if not isinstance(value, (tuple, list)) or not all(isinstance(pattern, str) and pattern for pattern in value):
        raise problem(value, "is not a list of patterns, which are regular expressions")
    patterns = tuple(value)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as exc:
            raise problem(pattern, f"is no regular expression: {exc}") from exc
    return patterns


def _read_database(value: str) -> str:
    if found := database_problem(value):
        raise problem(value, found, ENCODE)
    return value


def _read_ledger(value: str) -> str:
    scheme = value.partition("://")[0]
    if scheme in ("redis", "rediss", "unix", "memory"):
        return value
    if scheme.partition("+")[0] not in ("sqlite", "postgresql", "postgres"):
        raise problem(HIDDEN, "is not the URL of a ledger", "write redis://HOST:6379/0 or postgresql://USER@HOST/NAME")
    return _read_database(value)


def _read_service(value: Any) -> Any:
    """The address of a web service, which is never shown: a webhook's is a secret as a whole."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(text, str) and (found := service_problem(text)):
        raise problem(value, found, "write https://...")
    return value


def _read_optional_service(value: str | None) -> str | None:
    return _read_service(value) if value else value


def _read_proxy(value: str | None) -> str | None:
    if value and not all("!" <= char <= "~" for char in value):
        raise problem(value, "has a blank, a line break or another character that no URL has")
    return value


def _read_token(value: SecretStr | None) -> SecretStr | None:
    text = value.get_secret_value() if value is not None else "-"
    if not text or not all("!" <= char <= "~" for char in text):
        # a client would say so in an error that quotes it
        raise problem(value, "is empty, or has a blank, a line break or another character that no token has")
    return value


def _read_mention(value: str) -> str:
    if not _MENTION.fullmatch(value):
        raise problem(
            value, "is not how Slack writes a mention", 'write "<@U012AB3CD>", "<!subteam^S012AB3CD>", "<!here>"'
        )
    return value


GroupByField = Annotated[tuple[str, ...], PlainValidator(_read_group_by)]
PatternsField = Annotated[tuple[str, ...], PlainValidator(_read_patterns)]
DestinationField = Annotated[Destination, PlainValidator(read_destination)]
DatabaseUrl = Annotated[str, AfterValidator(_read_database)]
LedgerUrl = Annotated[str, AfterValidator(_read_ledger)]
SecretUrl = Annotated[SecretStr | None, AfterValidator(_read_service)]
ServiceUrl = Annotated[str | None, AfterValidator(_read_optional_service)]
ProxyUrl = Annotated[str | None, AfterValidator(_read_proxy)]
Mention = Annotated[str, AfterValidator(_read_mention)]
Token = Annotated[SecretStr | None, AfterValidator(_read_token)]
