"""The claim token: the secret of one requeue, by which its end is believed.

    claim ── draws a token ──> the requeued message's header ──> its retries ──> recovery, or a further death
      └─ keeps its digest <──────────── compared, in constant time ────────────────────┘

Owns how a token is drawn and compared. Where its digest is kept is in `store/claim.py`; nobody is ever shown a token.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

__all__ = ["NO_TOKEN", "digest_of", "draw_token", "fits"]

_BYTES = 24
NO_TOKEN = ""
"""The digest of a claim that was made before there were tokens: what it put back brings none."""


def draw_token() -> str:
    """A new token: 192 random bits."""
    return secrets.token_hex(_BYTES)


def digest_of(token: str) -> str:
    """What is kept of a token (SHA-256): whoever can read the archive cannot make a report of it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def fits(token: str | None, digest: str) -> bool:
    """Whether a token is the one of a claim, in constant time."""
    if digest == NO_TOKEN:
        return token is None
    return token is not None and hmac.compare_digest(digest_of(token), digest)
