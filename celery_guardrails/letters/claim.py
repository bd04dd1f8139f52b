"""The claim token: the secret of one requeue. A report of its end is believed only with this token.

    claim ── draws a token ──> the requeued message's header ──> its retries ──> recovery, or a further death
      └─ keeps its digest <──────────── compared, in constant time ────────────────────┘

Owns how a token is drawn and compared. `store/claim.py` keeps its digest. A token is never shown to anybody.
"""
# on its own: it is the one file with cryptography, and knows no database as store/claim.py does

from __future__ import annotations

import hashlib
import hmac
import secrets

__all__ = ["NO_TOKEN", "digest_of", "draw_token", "fits"]

_BYTES = 24
NO_TOKEN = ""
"""The digest of a claim that is older than tokens: the work that it put back carries no token."""


def draw_token() -> str:
    """A new token: 192 random bits."""
    return secrets.token_hex(_BYTES)


def digest_of(token: str) -> str:
    """The digest of a token (SHA-256), which the archive keeps: nobody can forge a report by reading the archive."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def fits(token: str | None, digest: str) -> bool:
    """Whether a token belongs to a claim; compared in constant time."""
    if digest == NO_TOKEN:
        return token is None
    return token is not None and hmac.compare_digest(digest_of(token), digest)
