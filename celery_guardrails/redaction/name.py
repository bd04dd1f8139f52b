"""Which names promise a secret: `password`, `X-Api-Key`, `dbPass`, in any spelling.

Owns the list of names and how a name is taken apart. It must not know values.
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["DENIED_NAMES", "is_denied", "squeeze"]

# Seeded like the list of Sentry's scrubber, with what payment and identity systems and connection settings add.
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
"""Names never shown. The first, longer ones hide a name that contains them, in any spelling (`smtpPassword2`); the
others only a name of which they are a word (`db_pass`, but not `passenger`)."""

_WHOLE = frozenset(_WORDS)
_PART = re.compile("|".join(_PARTS))
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_LONGEST = 200
"""Characters of a name that are looked at: a longer key is no name."""


def squeeze(name: str) -> str:
    """The name without case and separators."""
    return re.sub(r"[^a-z0-9]", "", name[:_LONGEST].lower())


@lru_cache(maxsize=4096)
def is_denied(name: str) -> bool:
    """Whether what goes under this name must not be shown."""
    squeezed = squeeze(name)
    if squeezed in _WHOLE or _PART.search(squeezed):
        return True
    return not _WHOLE.isdisjoint(word.lower() for word in _WORD.findall(name[:_LONGEST]))
