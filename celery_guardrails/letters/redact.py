"""Hiding secrets in what people see: arguments by their names.

Owns the list of names and the masking of nested values. The payload that is replayed stays whole; this is only for
previews. Values that look like secrets under harmless names are not recognised yet.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["DENIED_NAMES", "MASK", "Redactor"]

MASK = "[redacted]"
_MAX_DEPTH = 8
_MAX_ITEMS = 100

# Seeded like the list of Sentry's scrubber, with what payment and identity systems add.
DENIED_NAMES = (
    "password", "passwd", "pwd", "passphrase", "secret", "token", "apikey", "auth", "authorization", "credential",
    "cookie", "session", "sessionid", "csrf", "xsrf", "privatekey", "signature", "jwt", "bearer", "ssn",
    "socialsecurity", "cardnumber", "creditcard", "card", "cvv", "cvc", "pin", "iban", "bic", "accountnumber",
    "mysqlpwd", "setcookie", "accesskey", "otp", "totp",
)  # fmt: skip
"""Names never shown: an argument or key is hidden when its words contain one of these, in any spelling."""

_WHOLE_WORDS = frozenset({"auth", "card", "pin", "bic", "session", "otp", "pwd", "ssn", "signature"})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


class Redactor:
    """Masks values by the name they go under.

    Args:
        names: further names to hide, matched as a whole, whatever their case and separators.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._exact = frozenset(_squeeze(name) for name in names)

    def hides(self, name: object) -> bool:
        """Whether what goes under this name must not be shown."""
        if not isinstance(name, str):
            return False
        squeezed = _squeeze(name)
        if squeezed in self._exact:
            return True
        words = {word.lower() for word in _WORD.findall(name)}
        return any(
            (denied in words or squeezed == denied) if denied in _WHOLE_WORDS else denied in squeezed
            for denied in DENIED_NAMES
        )

    def mask(self, value: Any, name: object = None, depth: int = _MAX_DEPTH) -> Any:
        """A copy with every hidden value replaced; long containers and deep nesting are cut with a remark."""
        if self.hides(name):
            return MASK
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._sequence(value, depth)
        return value

    def hidden(self, value: Any, name: object = None, depth: int = _MAX_DEPTH) -> Iterator[Any]:
        """The values that `mask` replaces, each and, of containers, what is in them."""
        hides = self.hides(name)
        if hides:
            yield value
        if depth <= 0:
            return
        if isinstance(value, Mapping):
            for key, item in itertools.islice(value.items(), _MAX_ITEMS):
                yield from self.hidden(item, name if hides else key, depth - 1)
        elif isinstance(value, (list, tuple, set, frozenset)):
            items = list(itertools.islice(value, _MAX_ITEMS))
            inner = name if hides else items[0] if len(items) == 2 and self.hides(items[0]) else None
            for item in items[0 if hides or inner is None else 1 :]:
                yield from self.hidden(item, inner, depth - 1)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        if depth <= 0:
            return "{...}"
        masked = {}
        for position, (key, item) in enumerate(value.items()):
            if position >= _MAX_ITEMS:
                masked["..."] = f"{len(value) - _MAX_ITEMS} more"
                break
            masked[key] = self.mask(item, key, depth - 1)
        return masked

    def _sequence(self, value: Any, depth: int) -> Any:
        if depth <= 0:
            return "[...]"
        items = [self.mask(item, None, depth - 1) for position, item in enumerate(value) if position < _MAX_ITEMS]
        if len(value) > _MAX_ITEMS:
            items.append(f"... {len(value) - _MAX_ITEMS} more")
        # pairs such as ("password", "x") are mappings in another dress
        if len(items) == 2 and self.hides(items[0]):
            items[1] = MASK
        return tuple(items) if isinstance(value, tuple) else items


def _squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
