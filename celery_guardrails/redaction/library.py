"""Secrets in errors of libraries that write values apart from their names: pydantic, PostgreSQL, MySQL, SQLAlchemy.

Owns the form of these errors. The time of each search is proportional to the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from celery_guardrails.redaction.value import end_of_container, without_literals

__all__ = ["hide_in_errors"]

Hides = Callable[[str], bool]

_KEY = re.compile(r"Key \(([^()\n]{1,1000})\)=(?=\()")
_KEY_END = re.compile(r"\)(?= (?:already exists|is not present|is still referenced|conflicts with|is duplicated))")
_ROW = re.compile(r"(Failing row contains )\([^\n]*")
_ENTRY = re.compile(r"(Duplicate entry )'([^\n]{0,2000}?)'( for key '([^'\n]{1,200})')")
_PARAMETERS = re.compile(r"\[parameters: (?=\[?\()")
_VALUES = re.compile(r"\(([^()]{1,4000})\)\s{1,20}VALUES\s{0,20}(?=\()", re.I)
_INPUT, _TYPE = ", input_value=", ", input_type="
_NAME = re.compile(r"[\w-]+")


def hide_in_errors(text: str, hides: Hides, mask: str) -> str:
    """The text without secrets whose names stand elsewhere in the same error.

    Args:
        text: what somebody has written.
        hides: whether a value under this name is hidden.
        mask: what stands in a secret's place.
    """
    if _INPUT in text:
        text = _pydantic(text, hides, mask)
    if "Key (" in text:
        text = _keys(text, hides, mask)
    if "Failing row contains (" in text:
        text = _ROW.sub(lambda found: f"{found[1]}({mask})", text)  # a row's values, without their names
    if "Duplicate entry '" in text:
        text = _ENTRY.sub(lambda found: f"{found[1]}{mask}{found[3]}" if _any(found[4], hides) else found[0], text)
    if "[parameters: " in text:
        text = _containers(text, _PARAMETERS, lambda _: True, mask)
    if "values" in text.lower():
        text = _containers(text, _VALUES, lambda found: _any(found[1], hides), mask)
    return text


def _any(names: str, hides: Hides) -> bool:
    return any(map(hides, _NAME.findall(names)))


def _pydantic(text: str, hides: Hides, mask: str) -> str:
    """Hide by the field's name, in the line above a value; also the end of a cut mapping, whose name may be missing."""
    lines = text.split("\n")
    above = ""
    for place, line in enumerate(lines):
        begin, end = line.find(_INPUT), line.rfind(_TYPE)
        if begin < 0 or end < begin:
            above = line
            continue
        begin += len(_INPUT)
        value = line[begin:end]
        if _any(above, hides):
            lines[place] = line[:begin] + mask + line[end:]
        elif value[:1] in "{[(" and "..." in value:
            lines[place] = f"{line[: begin + value.index('...') + 3]}{mask}{line[end:]}"
    return "\n".join(lines)


def _keys(text: str, hides: Hides, mask: str) -> str:
    kept, position = [], 0
    while found := _KEY.search(text, position):
        start = found.end()
        line = text.find("\n", start)
        last = _KEY_END.search(text, start, line if line >= 0 else len(text))
        end = last.end() if last else end_of_container(text, start)
        kept += [text[position:start], f"({mask})" if _any(found[1], hides) else text[start:end]]
        position = end
    return "".join(kept) + text[position:]


def _containers(text: str, pattern: re.Pattern[str], is_meant: Callable[[re.Match[str]], bool], mask: str) -> str:
    """The text with every literal hidden in the containers behind the pattern: their values have no names."""
    kept, position = [], 0
    while found := pattern.search(text, position):
        start = found.end()
        end = end_of_container(text, start)
        inner = text[start:end]
        kept += [text[position:start], without_literals(inner, mask, every=True) if is_meant(found) else inner]
        position = end
    return "".join(kept) + text[position:]
