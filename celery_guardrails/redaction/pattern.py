"""The form of secrets that are found without a name: tokens with a known beginning, JWTs, keys, cards, accounts.

Owns the patterns, and the checks (Luhn, ISO 13616) that spare ordinary numbers and words. The time of each is
proportional to the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["hide_patterns"]

_KNOWN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"eyJ[\w-]{5,512}(?:\.[\w-]{0,4000}){1,4}"  # JSON Web Tokens (RFC 7519), signed or encrypted
    r"|[spr]k_(?:live|test)_[A-Za-z0-9]{8,200}|whsec_[\w+/=]{8,200}"  # Stripe
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{16,255}|github_pat_\w{16,255}|glpat-[\w-]{16,255}"  # GitHub, GitLab
    r"|xox[a-z](?:\.[a-z0-9]+)?-[\w-]{8,400}|xapp-[\w-]{8,400}"  # Slack
    r"|AIza[\w-]{30,60}|ya29\.[\w-]{16,400}"  # Google
    r"|SG\.[\w-]{16,64}\.[\w-]{16,64}"  # SendGrid
    r"|sk-[A-Za-z0-9][\w-]{18,250}"  # OpenAI and its like
    r"|npm_[A-Za-z0-9]{30,60}|pypi-[\w-]{32,400}|hf_[A-Za-z0-9]{30,60}|dop_v1_[a-f0-9]{32,80}|shp[a-z]{2}_[a-f0-9]{32}"
    r")(?![A-Za-z0-9])"
)
_SCHEME = re.compile(
    r"\b(Bearer|Basic|Token|Digest|ApiKey|Negotiate)([ :]+)(?!(?:realm|username|error|scope|charset)=|sha\d)"
    r"([\w+/=.~-]{6,4000})",
    re.I,
)
_SCHEMES = ("bearer", "basic", "token", "digest", "apikey", "negotiate")
_HOOK = re.compile(
    r"(https://(?:hooks\.slack\.com/\w{1,20}/|(?:\w{1,20}\.)?discord(?:app)?\.com/api/webhooks/"
    r"|(?:[\w-]{1,80}\.webhook|outlook)\.office(?:365)?\.com/\w{1,20}/|[\w.-]{1,200}(?::\d{1,5})?/hooks/(?=\w{20})))"
    r"[\w/@-]{1,300}",
    re.I,
)
_BOT = re.compile(r"(/bot)\d{5,14}:[\w-]{20,100}")  # Telegram's
_NUMBER = re.compile(
    r"(?<![\w.+])(?:\d{14,19}"  # written in one, or as it is on the card
    r"|\d{4}([ .-])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{4,5})(?!\w|[ .-]\d)"
)
_DIGITS = re.compile(r"\d{4}[ .-]?\d{4}")
_COUNTRY = re.compile(r"[A-Z]{2}\d\d")
_ACCOUNT = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_PORT = re.compile(
    r"(could not be cast to integer value as )(?:'[^']*'|\"[^\"]*\")"
)  # urllib of a password with a slash
_BEGIN = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,60})-----")

# How long an IBAN is in each country (the registry of ISO 13616).
_LENGTHS = {
    15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV",
    29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip
_COUNTRIES = {country: length for length, countries in _LENGTHS.items() for country in countries.split()}
# First digits and lengths of the card networks (ISO 7812, and what the networks publish).
_CARDS = re.compile(
    r"4(?:\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}|(?:50|5[6-9])\d{14}"
)


def hide_patterns(text: str, mask: str) -> str:
    """The text with `mask` in place of everything that looks like a secret."""
    if "-----BEGIN " in text:
        text = _without_keys(text, mask)
    text = _KNOWN.sub(mask, text)
    if "https://" in text and ("hook" in text or "HOOK" in text):
        text = _HOOK.sub(lambda found: found[1] + mask, text)
    if "/bot" in text:
        text = _BOT.sub(lambda found: found[1] + mask, text)
    if "integer value as" in text:
        text = _PORT.sub(lambda found: found[1] + mask, text)
    lowered = text.lower()
    if any(word in lowered for word in _SCHEMES):
        text = _SCHEME.sub(lambda found: f"{found[1]}{found[2]}{mask}" if _is_random(found[3]) else found[0], text)
    # the search for a part of the pattern costs a tenth of the whole
    if _DIGITS.search(text):
        text = _where(_NUMBER, _is_card, text, mask)
    return _where(_ACCOUNT, _is_iban, text, mask) if _COUNTRY.search(text) else text


def _where(pattern: re.Pattern[str], check: Callable[[str], bool], text: str, mask: str) -> str:
    return pattern.sub(lambda found: mask if check(found[0]) else found[0], text)


def _without_keys(text: str, mask: str) -> str:
    """The text without PEM blocks (RFC 7468); if a block was cut, all text behind its beginning is hidden."""
    kept, position = [], 0
    while begin := _BEGIN.search(text, position):
        kept += [text[position : begin.start()], mask]
        last = f"-----END {begin[1]}-----"
        end = text.find(last, begin.end())
        if end < 0:
            return "".join(kept)
        position = end + len(last)
    return "".join(kept) + text[position:]


def _is_random(text: str) -> bool:
    """Whether a text is a token and not a word: `Basic dXNlcjpw`, but not "basic authentication"."""
    if len(text) >= 24:
        return True
    body = text.rstrip(".=")
    if len(body) < len(text.rstrip(".")) or any(char.isdigit() or char in "+~" for char in body):
        return True
    # words with a slash between them: "token expired/invalid"
    return any(not part.islower() and not part.isupper() and not part[1:].islower() for part in body.split("/") if part)


def _is_card(found: str) -> bool:
    digits = re.sub(r"\D", "", found)
    if not _CARDS.fullmatch(digits):
        return False
    total = 0
    for place, char in enumerate(reversed(digits)):  # Luhn, ISO 7812-1 annex B
        digit = int(char) * (1 + place % 2)
        total += digit - 9 if digit > 9 else digit
    return total % 10 == 0


def _is_iban(found: str) -> bool:
    compact = found.replace(" ", "")
    if _COUNTRIES.get(compact[:2]) != len(compact):
        return False
    return int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1
