"""The redactor: values and text as people may see them.

Owns how containers and objects are split into their parts. An object with unknown parts is shown by its type's name,
never by its own `repr`, which would show everything.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from celery_guardrails.redaction.known import hide_values, known_values
from celery_guardrails.redaction.name import is_denied, squeeze
from celery_guardrails.redaction.text import hide_in_text
from celery_guardrails.redaction.work import Work

__all__ = ["MASK", "Redactor"]

MASK = "[redacted]"
_MAX_DEPTH = 8
_MAX_ITEMS = 100
_LONGEST_TEXT = 64 * 1024
"""Characters of a text that are searched; the rest is cut, so that no unsearched text is shown."""
_MARGIN = 512
"""Characters before such a cut that are not shown."""

_LONGEST_WORD = 16

_PLAIN = (date, time, timedelta, tzinfo, Decimal, Fraction, complex, UUID, PurePath, IPv4Address, IPv6Address, range)
_NAMED_BY = frozenset(("name", "key", "field", "header", "id", "parameter", "param", "attribute", "variable"))
_NAMED_VALUES = frozenset(("value", "values", "val", "content", "data", "text", "default", "raw"))


class Redactor:
    """Masks what people must not see, by name and by value. It never raises and never changes its arguments.

    Args:
        names: further names to hide, compared as a whole, without regard to case and separators.
        patterns: regular expressions; a text that matches is hidden. Each is searched in every text that is shown, so
            it should be cheap.
    """

    def __init__(self, names: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
        self._exact = frozenset(squeeze(name) for name in names)
        self._patterns = tuple(re.compile(pattern) for pattern in patterns)
        self._values: tuple[str, ...] = ()

    def knowing(self, values: Iterable[Any]) -> Redactor:
        """A redactor that also hides these values wherever they stand by themselves in a text.

        Args:
            values: the secrets. Only texts of at least 6 characters count, 50 at most; a secret's name is not a secret.
        """
        spellings = known_values(value for value in values if not self.hides(value))
        if not spellings:
            return self
        other = copy.copy(self)
        other._values = spellings
        return other

    def hides(self, name: object) -> bool:
        """Whether a value with this name must not be shown."""
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        return isinstance(name, str) and (is_denied(name) or squeeze(name) in self._exact)

    def text(self, text: str) -> str:
        """The text without secrets; at most 64 Ki characters of it.

        The last part of a longer text is removed, too: a secret that is cut in two cannot be recognised.
        """
        return self._text(text, Work())

    def _text(self, text: str, work: Work) -> str:
        taken = work.take(len(text), _LONGEST_TEXT)
        if taken == len(text):
            return self._cleaned(text)
        return (self._cleaned(text[:taken])[:-_MARGIN] if taken > _MARGIN else "") + "..."

    def _cleaned(self, cut: str) -> str:
        if self._values:
            cut = hide_values(cut, self._values, MASK)
        if cut[:1] in "{[" and (masked := self._json(cut)) is not None:
            return masked
        return hide_in_text(cut, self.hides, MASK, self._patterns)

    def texts(self, data: Any, depth: int = _MAX_DEPTH) -> Any:
        """A copy of JSON-like data with each text as `text` shows it; the keys are ours, and stay.

        Args:
            data: dicts, lists, tuples and texts; everything else stays as it is.
            depth: how many nested containers are read; deeper ones are left out.
        """
        if isinstance(data, str):
            return self.text(data)
        if not isinstance(data, (dict, list, tuple)):
            return data
        if depth <= 0:
            return "..."
        if isinstance(data, dict):
            return {key: self.texts(item, depth - 1) for key, item in data.items()}
        return [self.texts(item, depth - 1) for item in data]

    def mask(self, value: Any, name: object = None, depth: int = _MAX_DEPTH, work: Work | None = None) -> Any:
        """A copy with every secret replaced; long containers and deep nesting are cut with a remark.

        Args:
            value: anything.
            name: the value's name, if it has one.
            depth: how many nested containers are shown.
            work: how much may be read; `None`: 256 Ki characters and 20,000 values.
        """
        work = work or Work()
        if self.hides(name) and not _is_nothing(value):
            return MASK
        try:
            return self._masked(value, depth, work) if work.takes_value() else _Remark("...")
        except Exception as exc:  # noqa: BLE001 a user's object must not break what is shown
            return _Remark(f"<{type(value).__name__}: unprintable, {type(exc).__name__}>")

    def hidden(
        self, value: Any, name: object = None, depth: int = _MAX_DEPTH, work: Work | None = None
    ) -> Iterator[Any]:
        """The values that `mask` hides by their names, and also the values inside hidden containers."""
        work = work or Work()
        if not work.takes_value():
            return
        hides = self.hides(name)
        if hides:
            yield value
        if depth <= 0:
            return
        if isinstance(value, Mapping):
            for key, item in itertools.islice(value.items(), _MAX_ITEMS):
                yield from self.hidden(item, name if hides else key, depth - 1, work)
        elif isinstance(value, (list, tuple, set, frozenset)):
            items = list(itertools.islice(value, _MAX_ITEMS))
            inner = name if hides else items[0] if len(items) == 2 and self.hides(items[0]) else None
            for item in items[0 if hides or inner is None else 1 :]:
                yield from self.hidden(item, inner, depth - 1, work)

    def plain(self, value: Any, work: Work | None = None) -> str:
        """A value as short text, without secrets: text as it is, everything else as its masked `repr`."""
        masked = self.mask(value, work=work)
        return masked if isinstance(masked, str) else repr(masked)

    def _masked(self, value: Any, depth: int, work: Work) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, float):
            # a spreadsheet may have turned a card's number into a float
            return self._number(value) if 10**11 <= abs(value) < 10**20 and value.is_integer() else value
        if isinstance(value, Enum):
            return _Remark(f"{type(value).__name__}.{value.name}")
        if isinstance(value, int):
            return value if -(10**11) < value < 10**11 else self._number(value)
        if isinstance(value, str):
            return self._text(str(value), work)
        if isinstance(value, (bytes, bytearray, memoryview)):
            text = bytes(value[: _LONGEST_TEXT + 1]).decode("latin-1")
            return self._text(text, work).encode("latin-1", "replace")
        if isinstance(value, Mapping):
            return self._mapping(value, depth, work)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return self._object(value, dict(zip(value._fields, value, strict=False)), depth, work)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._sequence(value, depth, work)
        if isinstance(value, _PLAIN):
            return _Remark(
                self._text(str(value) if isinstance(value, (UUID, Decimal, PurePath)) else repr(value), work)
            )
        if isinstance(value, BaseException):
            return _Remark(f"{type(value).__name__}({self._text(str(value), work)!r})")
        parts = _parts(value)
        return _Remark(f"<{type(value).__name__}>") if parts is None else self._object(value, parts, depth, work)

    def _number(self, value: int | float) -> Any:
        digits = str(int(value)) if abs(value) < 10**80 else ""
        return value if digits and self.text(digits) == digits else (MASK if digits else _Remark("<a long number>"))

    def _mapping(self, value: Mapping[Any, Any], depth: int, work: Work) -> Any:
        if depth <= 0:
            return _Remark("{...}")
        hidden = any(
            isinstance(key, str) and key.lower() in _NAMED_BY and isinstance(item, (str, bytes)) and self.hides(item)
            for key, item in itertools.islice(value.items(), _MAX_ITEMS)
        )
        masked: dict[Any, Any] = {}
        for position, (key, item) in enumerate(value.items()):
            if position >= _MAX_ITEMS or work.values <= 0:
                work.is_cut = True
                masked["..."] = f"{len(value) - position} more"
                break
            if hidden and isinstance(key, str) and key.lower() in _NAMED_VALUES:
                shown: Any = MASK
            else:
                shown = self.mask(item, key, depth - 1, work)
            masked[self._key(key, work)] = shown
        return masked

    def _key(self, key: Any, work: Work) -> Any:
        """A key as it is shown: a key that may be a secret's name stays, a key that looks like a secret is masked."""
        if key is None or isinstance(key, bool):
            return key
        shown = self._masked(key, 1, work) if isinstance(key, (str, bytes, int, float, Enum, *_PLAIN)) else None
        return _Remark(f"<{type(key).__name__}>") if shown is None else shown

    def _item(self, holder: Any, item: Any, depth: int, work: Work) -> Any:
        is_pair = isinstance(holder, (list, tuple)) and isinstance(item, (list, tuple)) and len(item) in (2, 3)
        if is_pair and not hasattr(item, "_fields"):
            return self._sequence(item, depth, work, in_list=True)
        return self.mask(item, None, depth, work)

    def _sequence(self, value: Any, depth: int, work: Work, in_list: bool = False) -> Any:
        if depth <= 0:
            return _Remark("[...]")
        items = [self._item(value, item, depth - 1, work) for item in itertools.islice(value, _MAX_ITEMS)]
        # pairs such as ("password", "x") are treated as mappings, and so are headers with a third part
        if isinstance(value, (list, tuple)) and len(items) in (2, 3):
            for place in range(len(items) - 1):
                if self.hides(value[place]) and (in_list or not _is_word(value[place + 1])):
                    items[place + 1 :] = [MASK] * (len(items) - place - 1)
                    break
        if isinstance(value, (list, tuple)):
            self._hide_options(value, items)
        if len(value) > _MAX_ITEMS:
            work.is_cut = True
            items.append(f"... {len(value) - _MAX_ITEMS} more")
        return tuple(items) if isinstance(value, tuple) else items

    def _hide_options(self, value: Sequence[Any], items: list[Any]) -> None:
        """Hide a command's word behind an option that promises a secret: `["mysql", "--password", "x"]`."""
        for place in range(len(items) - 1):
            option, following = value[place], value[place + 1]
            is_option = isinstance(option, str) and option.startswith("--") and "=" not in option
            if is_option and self.hides(option) and not str(items[place + 1]).startswith("--") and following:
                items[place + 1] = MASK

    def _object(self, value: Any, parts: Mapping[str, Any], depth: int, work: Work) -> Any:
        if depth <= 0:
            return _Remark(f"{type(value).__name__}(...)")
        masked = self._mapping(parts, depth, work)
        return _Remark(f"{type(value).__name__}({', '.join(f'{key}={item!r}' for key, item in masked.items())})")

    def _json(self, text: str) -> str | None:
        """A JSON text with its secrets masked; `None`: the text is not JSON, or its structure hides no value."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        masked = self.mask(value)
        if masked == value:
            return None
        try:
            return json.dumps(masked, ensure_ascii=False, default=str)
        except (TypeError, ValueError):
            return MASK


def _is_nothing(value: Any) -> bool:
    """Whether a value is never a secret, and often the cause of the failure: `token=None`."""
    return value is None or isinstance(value, bool) or (isinstance(value, (str, bytes)) and not value)


def _is_word(value: Any) -> bool:
    """Whether a value is a plain word: two plain words are not a pair of name and secret, as in `["login", "page"]`."""
    return isinstance(value, str) and value.isalpha() and len(value) < _LONGEST_WORD


class _Remark(str):
    """Text that stands in place of a value, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _parts(value: Any) -> dict[str, Any] | None:
    """The fields of an object, if its class declares them; `None` if it does not."""
    if isinstance(value, type):
        return None
    if is_dataclass(value):
        return {each.name: getattr(value, each.name, None) for each in fields(value)}
    if isinstance(value, SimpleNamespace):
        return dict(vars(value))
    named = getattr(type(value), "model_fields", None) or getattr(type(value), "__fields__", None)
    if isinstance(named, Mapping):  # pydantic 2, or 1
        return {**dict(vars(value)), **(getattr(value, "__pydantic_extra__", None) or {})}
    attributes = getattr(type(value), "__attrs_attrs__", None)
    if attributes is not None:  # attrs
        return {each.name: getattr(value, each.name, None) for each in attributes}
    return None
