"""Values as people may see them: by name, in containers and objects of every kind."""

from __future__ import annotations

import enum
import math
import uuid
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from celery_guardrails.redaction import MASK, Redactor, Work

SECRET = "hunter2"


@dataclass
class Login:
    name: str
    password: str


@dataclass
class Plain:
    note: Any


class Model(BaseModel):
    name: str
    db_pass: str


class Loose(BaseModel, extra="allow"):
    name: str


class Opaque:
    def __init__(self) -> None:
        self.password = SECRET

    def __repr__(self) -> str:
        return f"Opaque({self.password})"


class Broken:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError(SECRET)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise RuntimeError(SECRET)


class Odd(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise RuntimeError(SECRET)


Pair = namedtuple("Pair", ["name", "token"])


@pytest.mark.parametrize(
    "value",
    [
        {"password": SECRET}, {b"password": SECRET}, {"a": {"b": [{"pin": SECRET}]}}, OrderedDict(token=SECRET),
        [("password", SECRET)], [("password", SECRET, "meta")], [(1, "password", SECRET)], (("Cookie", SECRET),),
        {"name": "password", "value": SECRET}, [{"key": "API_KEY", "value": SECRET}],
        {"field": b"pin", "content": SECRET},
        Login("ada", SECRET), Model(name="ada", db_pass=SECRET), Loose(name="ada", token=SECRET), Pair("ada", SECRET),
        SimpleNamespace(secret=SECRET), Plain({"password": SECRET}), Opaque(), [Opaque()], {"a": Opaque()}, Broken(),
        Odd(password=SECRET), f'{{"password": "{SECRET}"}}', f"user=ada&password={SECRET}", SecretStr(SECRET),
        ValueError(f"password={SECRET}"), f"amqp://u:{SECRET}@host".encode(), {f"amqp://u:{SECRET}@host": 1},
        {Opaque(): 1}, {"note": f"Bearer {SECRET}99"}, {frozenset([SECRET]): 1}, Login, type("T", (), {"x": SECRET})(),
        lambda: SECRET, [[[[[[[[[[SECRET]]]]]]]]]], {("password", SECRET): 1},
    ],
)  # fmt: skip
def test_a_secret_is_hidden_in_whatever_holds_it(value: Any) -> None:
    redactor = Redactor()
    assert SECRET not in repr(redactor.mask(value))
    assert SECRET not in redactor.plain(value)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Login("ada", SECRET), f"Login(name='ada', password='{MASK}')"),
        (Pair("ada", SECRET), f"Pair(name='ada', token='{MASK}')"),
        (SimpleNamespace(a=1), "SimpleNamespace(a=1)"),
        (Opaque(), "<Opaque>"),
        ([1, 2.5, None, True, "x", b"y"], "[1, 2.5, None, True, 'x', b'y']"),
        ({"id": 7, 3: "x"}, "{'id': 7, 3: 'x'}"),
        ({"id": 4111111111111111}, f"{{'id': '{MASK}'}}"),
        ((1,), "(1,)"),
        ({"token": None, "password": True, "pin": ""}, "{'token': None, 'password': True, 'pin': ''}"),
        ({"seed": 42}, f"{{'seed': '{MASK}'}}"),
        (["login", "page"], "['login', 'page']"),
        ([["card", "sepa"]], f"[['card', '{MASK}']]"),
        (("pin", 1234), f"('pin', '{MASK}')"),
        (
            datetime(2026, 1, 2, tzinfo=timezone.utc),
            "datetime.datetime(2026, 1, 2, 0, 0, tzinfo=datetime.timezone.utc)",
        ),
        (Decimal("1.50"), "1.50"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (Path("/srv/mail"), "/srv/mail"),
        (enum.Enum("Color", "RED")["RED"], "Color.RED"),
        (math.inf, "inf"),
    ],
)
def test_what_is_no_secret_stays_readable(value: Any, shown: str) -> None:
    assert repr(Redactor().mask(value)) == shown


def test_a_number_too_long_to_write_is_a_remark() -> None:
    assert repr(Redactor().mask([10**5000])) == "[<a long number>]"


def test_what_follows_an_option_in_a_command_is_hidden() -> None:
    assert Redactor().mask(["mysql", "--password", "abc", "--quiet"]) == ["mysql", "--password", MASK, "--quiet"]


def test_values_that_are_known_are_hidden_where_they_stand_by_themselves() -> None:
    redactor = Redactor().knowing(["correct horse", "it's so\n", "abc", "password", 7, None, "trueword"])
    assert redactor.text("not correct horse, abc: no password") == f"not {MASK}, abc: no password"
    assert redactor.text("untruewords trueword.") == f"untruewords {MASK}."
    assert "it" not in redactor.text(repr("it's so\n"))
    assert Redactor().text("correct horse") == "correct horse"


class Counted(dict):  # type: ignore[type-arg]
    """A mapping that counts how many of its items are looked at."""

    seen = 0

    def items(self) -> Any:
        for item in super().items():
            Counted.seen += 1
            yield item


def test_no_more_of_a_value_is_looked_at_than_is_shown() -> None:
    Counted.seen = 0
    tree: Any = "x"
    for _ in range(7):
        tree = Counted({f"k{number}": tree for number in range(200)})
    list(Redactor().hidden(tree))
    assert Counted.seen < 30_000
    work = Work(characters=10_000, values=500)
    shown = Redactor().mask(tree, work=work)
    assert Counted.seen < 40_000
    assert work.is_cut
    assert len(repr(shown)) < 100_000


def test_a_secret_is_not_shown_by_being_cut() -> None:
    for before in range(65_400, 65_536, 7):
        assert "hunter" not in Redactor().text("x" * before + " postgres://shop:hunter2hunter2hunter2@db/shop")


def test_the_value_itself_is_not_changed() -> None:
    value = {"password": SECRET, "list": [{"pin": 1}]}
    Redactor().mask(value)
    assert value == {"password": SECRET, "list": [{"pin": 1}]}


@pytest.mark.parametrize(
    "name",
    ["pass", "db_pass", "smtp_pass", "dbPass", "passcode", "dsn", "database_url", "connection_string", "webhook_url",
     "encryption_key", "signing_key", "ssh_key", "aws_key", "oauth", "creds", "login", "pan", "cardno", "cc_number",
     "pincode", "security_code", "mfa_code", "verification_code", "phpsessid", "PHPSESSID", "sid", "hmac", "sig",
     "seed", "mnemonic", "session_id", "secret_id", "password_reset_url", "database_urls", "card_expiry", "password2",
     "X-Api-Key", b"password", "userToken", "PGPASSWORD", "storage.accountKey"],
)  # fmt: skip
def test_names_that_promise_a_secret(name: Any) -> None:
    assert Redactor().hides(name)


@pytest.mark.parametrize(
    "name",
    ["side", "passenger", "compass", "company", "span", "panel", "signal", "design", "seedling", "reside", "logins",
     "loginpage", "cardinal", "discard", "keyboard", "author", "order_id", "token_count", "maxTokens", "prompt_tokens",
     "token_type", "card_id", "password_reset_id", "signature_version", "last_login", "login_url", "secretary",
     "tokenizer", "token_expires_in", "pin_code_attempts", "", 3, None, ("password",), "x" * 10_000],
)  # fmt: skip
def test_names_that_do_not(name: Any) -> None:
    assert not Redactor().hides(name)


def test_names_of_the_settings_are_matched_as_a_whole() -> None:
    redactor = Redactor(["birth_date"])
    assert redactor.hides("birthDate")
    assert not redactor.hides("birth")
    assert redactor.text("birth_date=1.1.2000") == f"birth_date={MASK}"
