"""Which names promise a secret: `password`, `X-Api-Key`, `dbPass`, in any spelling.

Owns the list of names, how a name is split into words, and which names are only about a secret (`token_count`). It must
not know values.
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["DENIED_NAMES", "is_counted", "is_denied", "is_never_prose", "squeeze"]

# Begun with the list of Sentry's scrubber, then names from payment and identity systems and connection settings.
_PARTS = (
    "password", "passwd", "passphrase", "passcode", "secret", "token", "apikey", "authorization", "credential",
    "cookie", "sessionid", "sessid", "csrf", "xsrf", "privatekey", "bearer", "socialsecurity", "cardnumber",
    "creditcard", "ccnumber", "accountnumber", "accesskey", "accountkey", "encryptionkey", "signingkey", "sshkey",
    "awskey", "connectionstring", "connstring", "databaseurl", "webhookurl", "securitycode", "verificationcode",
    "mfacode", "pincode",
)  # fmt: skip
_WORDS = (
    "auth", "oauth", "card", "cardno", "pin", "pan", "bic", "iban", "session", "sid", "otp", "totp", "pass", "pwd",
    "dbpass", "userpass", "mysqlpwd", "pgpassword", "ssn", "signature", "sig", "hmac", "jwt", "cvv", "cvc", "dsn",
    "creds", "login", "seed", "mnemonic",
)  # fmt: skip
DENIED_NAMES = (*_PARTS, *_WORDS)
"""Names whose values are never shown. The first, longer names also hide every name that contains them, in any spelling
(`smtpPassword2`). The others hide only a name that has them as a word (`db_pass`, but not `passenger`)."""

_WHOLE = frozenset(_WORDS)
# "secretary", "passwordless" and "tokenizer" promise no secret
_PART = re.compile("|".join(_PARTS).replace("secret|", "secret(?!ar(?:y|i))|").replace("token|", "token(?!i[sz])|", 1))
# Whole words at a name's end: the value is then a fact about a secret, not the secret.
_ABOUT_TEXT = (
    "count counts id ids type types timeout timeouts version versions at expires expiry expire expiration "
    "expired status state backend backends method methods scheme schemes mode brand network attempts retries "
    "checked failures limit length len size ttl age minutes seconds hours days ms policy required enabled "
    "disabled used url uri "
)
_ABOUT = frozenset(_ABOUT_TEXT.split())
_SECRET_YET = re.compile(r"(?:session|sess|secret)ids?$|(?:database|webhook|connection)ur[li]s?$")
_SECRET_LINK = re.compile(r"passw|secret|cookie|credential|reset|magic|verif|sign")
_CARD_DATE = re.compile(r"card|cc(?:exp|$)")
_AMOUNTS_TEXT = "max min num n total prompt completion input output cached reasoning used remaining estimated free "
_AMOUNTS = frozenset(_AMOUNTS_TEXT.split())
_COUNTED = frozenset(("sig", "seed", "pass", "auth", "session", "card", "login", "token", "cookie", "csrf", "creds"))
_NEVER_PROSE = re.compile(
    r"passw(?!ordless)|passphrase|pwd|secret(?!ar)|apikey|privatekey|accesskey|encryptionkey|signingkey"
    r"|(?:access|auth|api|refresh|bearer|csrf|xsrf|session|bot|user|customer)token"
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_LONGEST = 200
"""Characters of a name that are read: a longer key is not a name."""


def squeeze(name: str) -> str:
    """The name without case and separators."""
    return re.sub(r"[^a-z0-9]", "", name[:_LONGEST].lower())


@lru_cache(maxsize=4096)
def is_denied(name: str) -> bool:
    """Whether a value with this name must not be shown."""
    squeezed = squeeze(name)
    words = [word.lower() for word in _WORD.findall(name[:_LONGEST])]
    if squeezed in _WHOLE:
        return True
    if _is_about(words, squeezed):
        return False
    return bool(_PART.search(squeezed)) or not _WHOLE.isdisjoint(words)


def is_never_prose(name: str) -> bool:
    """Whether the word behind this name is a value even if it looks like prose: `password`, not `token` or `card`."""
    return bool(_NEVER_PROSE.search(squeeze(name)))


def is_counted(name: str) -> bool:
    """Whether a small number under this name, in text, is a count or a code: `sig=15`, `pass: 12`, `auth: 401`."""
    squeezed = squeeze(name)
    return squeezed in _COUNTED or squeezed.rstrip("s") in _COUNTED


def _is_about(words: list[str], squeezed: str) -> bool:
    """Whether the name is of a fact about a secret: how many, of which type, until when."""
    if len(words) < 2:
        return False
    last = words[-1]
    if last in ("tokens", "sessions", "cookies", "cards") and not _AMOUNTS.isdisjoint(words[:-1]):
        return True
    if words[-2:] == ["last", "login"]:
        return True
    if "expires" in words[1:]:
        return True
    if last not in _ABOUT or _SECRET_YET.search(squeezed):
        return False
    if last in ("url", "uri"):
        return not _SECRET_LINK.search(squeezed)
    return not (last.startswith("expir") and _CARD_DATE.search(squeezed))
