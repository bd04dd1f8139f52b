"""One secret of each kind, each with a needle that stands nowhere else: what must be seen in no output there is."""

from __future__ import annotations

import json
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel

__all__ = ["BY_NAME", "BY_VALUE", "NEEDLES", "PRIVATE", "TOKEN", "in_objects", "needles_in"]

BY_VALUE = {
    "jwt": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.needleJwt01", "needleJwt01"),
    "bearer": ("Bearer needleBearer02", "needleBearer02"),
    "basic": ("Basic bmVlZGxlOm5lZWRsZQ==", "bmVlZGxlOm5lZWRsZQ"),
    "stripe": ("sk_live_needleStripe04", "needleStripe04"),
    "aws": ("AKIANEEDLE0123456789", "NEEDLE0123456789"),
    "github": ("ghp_needleGithub05needleGithub", "needleGithub05"),
    "slack": ("xoxb-needleSlack06-needleSlack", "needleSlack06"),
    "pem": ("-----BEGIN PRIVATE KEY-----\nneedlePem07\n-----END PRIVATE KEY-----", "needlePem07"),
    "card": ("4539 1488 0343 6467", "1488 0343"),
    "iban": ("DE89370400440532013000", "370400440532"),
    "url": ("postgresql://shop:needleUrl08@db.example/shop", "needleUrl08"),
    "query": ("https://shop.example/x?api_key=needleQuery09&page=2", "needleQuery09"),
}
"""By what they look like: the text, and its part that must not be seen."""

_NAMES = (
    "password", "pass", "db_pass", "smtp_pass", "passcode", "dsn", "database_url", "connection_string", "webhook_url",
    "encryption_key", "signing_key", "ssh_key", "aws_key", "oauth", "creds", "login", "pan", "cardno", "cc_number",
    "pincode", "security_code", "mfa_code", "verification_code", "phpsessid", "sid", "hmac", "sig", "seed", "mnemonic",
    "X-Api-Key", "customer_token", "address",
)  # fmt: skip
BY_NAME = {name: f"needle{number:02}name" for number, name in enumerate(_NAMES)}
"""By the name that they go under; `address` by the policy of the task alone."""

TOKEN = "xoxb-needleToken20-needleToken"
"""The token of the settings."""
PRIVATE = {
    key: f"needle{key.title()}{number}"
    for number, key in enumerate(
        ("object", "position", "affected", "history", "reason", "unknown", "undecodable", "misshapen", "foreign",
         "older", "runbook", "sender", "pattern"),
        start=30,
    )
}  # fmt: skip
"""Needles of single places, by what holds them."""

NEEDLES = (
    *(needle for _, needle in BY_VALUE.values()),
    *BY_NAME.values(),
    *PRIVATE.values(),
    "needleToken20",
)


def needles_in(text: str) -> list[str]:
    """What can be seen in an output and must not."""
    return [needle for needle in NEEDLES if needle in text]


@dataclass
class Login:
    user: str
    password: str


class Account(BaseModel):
    user: str
    db_pass: str


Pair = namedtuple("Pair", ["user", "token"])


class Opaque:
    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __repr__(self) -> str:
        return f"Opaque({self.secret})"


def in_objects(needle: str) -> list[Any]:
    """A secret in every kind of object that holds one by a name."""
    return [
        Login("ada", needle), Account(user="ada", db_pass=needle), Pair("ada", needle), SimpleNamespace(pin=needle),
        {b"password": needle}, [("password", needle)], [("password", needle, "meta")],
        {"name": "password", "value": needle},
        json.dumps({"a": [{"password": needle}]}), f"user=ada&password={needle}", Opaque(needle), [[{"token": needle}]],
        ValueError(f"password={needle}"),
    ]  # fmt: skip
