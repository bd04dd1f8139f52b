"""Secrets in text, by what they look like and by the name before them; and ordinary text, which stays."""

from __future__ import annotations

import json
import re
import string
import subprocess

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from celery_guardrails.redaction import MASK, Redactor

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----"
BY_VALUE = {
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVPmB92K27uhbUJU1p1r",
    "bearer": "Bearer 8f3kd92mz0",
    "bearer, words only": "Bearer zxcvbnmasdfghjklqwertyuiop",
    "basic": "Basic dXNlcjpwYXNz",
    "stripe": "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "github": "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "slack": "xoxb-17653672481-19874698323-pdFZKVeTuE8sk7oOcHrzqqgy",
    "discord hook": "https://discord.com/api/webhooks/1234567890/XXXX-abc_def",
    "slack hook": "https://hooks.slack.com/services/T000/B000/XXXXXXXXXXXX",
    "pem": PEM,
    "pem, cut": PEM[:50],
    "card": "4111 1111 1111 1111",
    "card, dots": "4111.1111.1111.1111",
    "card, no blanks": "5555555555554444",
    "card, amex": "3782-822463-10005",
    "iban": "DE89 3704 0044 0532 0130 00",
    "iban, no blanks": "GB82WEST12345698765432",
    "url": "postgresql://shop:hunter2@db:5432/shop",
    "url, no user": "redis://:hunter2@cache/0",
    "url, odd password": "amqp://u:p@ss:pw/1@rabbit:5672//",
    "url, token as user": "https://a8f3kd92mz0a8f3kd92mz0@git.shop/x",
    "query": "https://shop/api?api_key=abcd&x=1",
}
SECRET_PARTS = {
    "bearer": ["8f3kd92mz0"], "basic": ["dXNlcjpwYXNz"],
    "slack hook": ["XXXX"], "discord hook": ["XXXX", "abc_def"], "pem": ["MIIE", "IBAAKC"],
    "pem, cut": ["MII"], "url": ["hunter2"], "url, no user": ["hunter2"], "url, odd password": ["p@ss", "pw", "ss:"],
    "url, token as user": ["a8f3"], "query": ["abcd"], "bearer, words only": ["zxcv"],
}  # fmt: skip


@pytest.mark.parametrize("kind", BY_VALUE)
@pytest.mark.parametrize("around", ["{}", "the provider said: {}, again", "'{}'", "x={}\nnext line", '["{}"]', "({})"])
def test_what_looks_like_a_secret_is_hidden_wherever_it_stands(kind: str, around: str) -> None:
    shown = Redactor().text(around.format(BY_VALUE[kind]))
    assert MASK in shown
    assert not [part for part in SECRET_PARTS.get(kind, [BY_VALUE[kind]]) if part in shown]


@pytest.mark.parametrize("said", ["password: swordfish", "db_password: correcthorse, sorry", "client_secret: aaaa"])
def test_a_password_that_looks_like_a_word_is_hidden_after_its_name(said: str) -> None:
    shown = Redactor().text(f"login failed with {said}")
    assert shown.endswith((f": {MASK}", f": {MASK}, sorry"))


@pytest.mark.parametrize(
    "text",
    ["X-Api-Key: abcdefghij", "client_secret: abcdefgh", "password: hunterSECRET", "secret: Blue-Horse",
     "api_token: abcdefgh", "password=correcthorse", "[('X-Api-Key', 'abcdefgh')]", "('password', 'abcdefgh')",
     "https://api.telegram.org/bot123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/getMe",
     "https://shop.webhook.office.com/webhookb2/1a-2b@3c/IncomingWebhook/4d/5e",
     "https://outlook.office.com/webhook/1a-2b@3c/IncomingWebhook/4d/5e",
     "https://chat.shop.example/hooks/abcdefghijklmnopqrstuvwxyz"],
)  # fmt: skip
def test_a_secret_without_a_digit_or_in_the_address_of_a_hook_is_hidden(text: str) -> None:
    shown = Redactor().text(f"it said: {text}")
    assert MASK in shown
    assert not [part for part in ("abcdefgh", "hunter", "Horse", "correct", "AAHd", "1a-2b", "4d") if part in shown]


def test_a_failed_command_hides_its_options() -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        subprocess.run(["false", "--password=hunter2", "--token", "hunter2"], check=True)
    assert "hunter2" not in Redactor().text(str(raised.value))


def test_what_pydantic_says_of_a_field_that_promises_a_secret() -> None:
    class Login(BaseModel):
        password: int
        age: int

    with pytest.raises(ValidationError) as raised:
        Login.model_validate({"password": "hunter2", "age": "four"})
    shown = Redactor().text(str(raised.value))
    assert "hunter2" not in shown
    assert "input_value='four'" in shown


def test_what_is_hidden_already_stays_as_it_is() -> None:
    for text in ("password=[redacted]", "token=[redacted], x", "a?token=[redacted]&b=1", "password='[redacted]'."):
        assert Redactor().text(text) == text


def test_what_is_no_secret_beside_one_stays() -> None:
    shown = Redactor().text("cannot reach postgresql://shop:hunter2@db:5432/shop?sslmode=require after 3 tries")
    assert shown == f"cannot reach postgresql://{MASK}@db:5432/shop?sslmode=require after 3 tries"
    both = Redactor().text("amqp://u:a1@one;amqp://u:b2@two")
    assert both == f"amqp://{MASK}@one;amqp://{MASK}@two"


@pytest.mark.parametrize(
    "text",
    [
        "password=hunter2", "db_pass=hunter2", "smtp_pass='hunter2 and more'", 'token="hunter2"',
        "login?sid=hunter2&a=1",
        "{'password': 'hunter2'}", '{"password": "hunter2", "a": 1}', "{'api_key': b'hunter2'}",
        '{\\"password\\": \\"hunter2\\"}', "{'card': {'number': 'hunter2'}, 'a': [1]}", "{'tokens': ['a', 'hunter2']}",
        "Authorization: Digest username=ada, response=hunter2", "Set-Cookie: a=1; b=hunter2", "password: hunter2",
        "{'password': 'it\\'s hunter2'}", "{'password': 'hunter2", "User(name='ada', password='hunter2')",
        "DATABASE_URL=hunter2", "signing_key => hunter2", "'secret': hunter2", "X-Api-Key: abcdef/hunter2",
        "password = hunter2", "DB_PASSWORD = 'hunter2'", "aws_secret_access_key = hunter2/K7MDENG",
        "password%3Dhunter2",
        "--password hunter2", "--password=hunter2", "mysql -u ada --db-password 'hunter2' shop",
        "<password>hunter2</password>",
        "Command '['mysql', '--password', 'hunter2']' returned 1", "<a><apiKey>hunter2</apiKey></a>",
        "user: ada, password: hunter2", "Password: hunter2.",
        "self.password = 'hunter2'", "config['password'] = 'hunter2'", "password: str = 'hunter2'",
        "DETAIL:  Key (api_token)=(hunter2) already exists.", "DETAIL:  Key (a, token)=(5, a) hunter2) is not present",
        "DETAIL:  Failing row contains (1, bob, hunter2).", "Duplicate entry 'hunter2' for key 'users.api_token'",
        "[SQL: INSERT]\n[parameters: ('bob', 'hunter2')]", "[parameters: [('bob', 'hunter2'), ('eve', \"hunter2's\")]]",
        "INSERT INTO users (name, password) VALUES ('x', 'hunter2')",
        "[('X-Api-Key', 'hunter2')]", "('password', 'hunter')('token', 'hunter2')", "[('session', 'hunter2')]",
        "token=Token('hunter2')", "auth=HTTPBasicAuth('bob', 'hunter2')", "auth=('bob', 'hunter2')",
        "password = Secret('hunter2')", "password=[redacted]hunter2", "credentials: {'v': 'hunter2'}",
        "token: Token('hunter2')", "password: (hunter2)", "password%3dhunter2",
        "b'X-Api-Key: abcdefgh\\r\\nAuthorization: hunter2 x'", "redis://:my hunter2@cache/0",
        "postgres://shop:a'hunter2@db/shop", "amqp://shop:a<hunter2@rabbit:5672//", "api key: hunter2",
        "password\n  Input should be a valid integer [type=int_parsing, input_value='hunter2', input_type=str]",
        "  | user.token\n  |   Not good [type=a, input_value={'x': 'hunter2'}, input_type=dict]",
        "x\n  Field required [type=missing, input_value={'a': 1, 'pass...er': 'hunter2'}, input_type=dict]",
    ],
)  # fmt: skip
def test_a_value_after_a_name_that_promises_a_secret_is_hidden(text: str) -> None:
    shown = Redactor().text(f"ValueError: {text}")
    assert "hunter2" not in shown
    assert MASK in shown


@pytest.mark.parametrize(
    "text",
    [
        "Basic authentication failed", "the bearer is unknown", "invalid token: expected a name", "session: closed",
        "card: declined", "side=left, passenger=3, seedling=1", "order_id=4711", "x = 3", "10:15:00 up",
        "https://medium.com/@ada/post", "https://shop.example:8080/a?page=2", "amqp://rabbit:5672//",
        "postgresql://guardrails@db/shop", "ada@example.com", "+49 151 12345678", "2026-11-29 12:00:01.123456",
        "1764417600000", "16-digit id 1234567890123456", "KeyError: 'name'", "tests/unit/test_text.py:17",
        "redis://:**@cache/0", "postgresql://shop:***@db/shop", "{'user': 'ada', 'pin': '****'}", "pin=''",
        "password = read_password(user)", "token = tokens[0]", "secret = settings.secret", "card == other",
        "--password", "--token --quiet", "<name>ada</name>", "10.0.0.1", "password = user",
        "password: must be longer", "Password: This field is required", "secret: None", "db_password: incorrect",
        "Slack does not take the token: invalid_auth", "token", "password",
        "token_count=5", "max_tokens: 4096", "prompt_tokens=12", "token_type=bearer", "session_count=3",
        "session_timeout=30", "card_id=77", "card_type=visa", "password_reset_id=8", "signature_version=s3v4",
        "last_login=2026-11-29T10:00:00", "login_url=/login", "secretary=Bob", "sig=15", "seed=42", "tests: pass=12",
        "auth: 401", "auth=False", "Unexpected token: ')'", "token=None", "password=True", "password=null",
        "token: None",
        "{'token': None, 'password': False}", 'password=""', "card=declined", "exit sig=SIGKILL",
        "['login', 'page']", "['card', 'sepa']", "Basic usage/example", "token expired/invalid", "Bearer realm=x",
        "see https://x.y/p:1/a@b.com", "https://host:80/a:b@c", "digest sha256:abc", "token_expires_in=3600",
        "redis://cache:6379 is down, write to ops@example.com", "password: too short", "password: expired",
        "Key (name)=(bob) already exists.", "Duplicate entry '7' for key 'PRIMARY'", "[parameters: (1, 2)]",
        "the password is wrong", "3 of 4 tokens", "GET /orders/4711 -> 503",
    ],
)  # fmt: skip
def test_ordinary_text_stays(text: str) -> None:
    assert Redactor().text(text) == text


WORDS = st.text(string.ascii_letters, min_size=1, max_size=15)
ORDINARY = st.one_of(
    WORDS.filter(lambda word: not Redactor().hides(word)),
    st.uuids().map(str),
    st.binary(min_size=20, max_size=20).map(bytes.hex),
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.integers(-(10**11), 10**11).map(str),
    st.floats(allow_nan=False).map(str),
    st.datetimes().map(str),
    st.lists(WORDS, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts) + ".py"),
    st.tuples(WORDS, st.integers(0, 65535)).map(lambda place: f"{place[0].lower()}.example:{place[1]}"),
)


SCHEMES = {"bearer", "basic", "token", "digest", "apikey", "negotiate"}


def is_rightly_hidden(text: str) -> bool:
    """Whether chance has drawn what is a secret by all that can be seen: a card's digits, an authorization, a JWT."""
    if SCHEMES.intersection(re.findall("[a-z]+", text.lower())) or "eyJ" in text:
        return True
    for run in re.findall(r"\d+(?:[ .-]\d+)*", text):
        groups = re.split("[ .-]", run)
        for first in range(len(groups)):
            for last in range(first, len(groups)):
                digits = "".join(groups[first : last + 1])
                if 13 <= len(digits) <= 19 and luhn(digits) == 0:
                    return True
    return False


def luhn(digits: str) -> int:
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[-1::-2]))) % 10


def test_what_is_rightly_hidden_is_known_as_such() -> None:
    assert is_rightly_hidden("a 2681 2719 2719 2749 b")
    assert is_rightly_hidden("4111111111111111")
    assert is_rightly_hidden("x basic dXNlcjpwYXNz")
    assert not is_rightly_hidden("2681 2719 2719 2748 and 12 Basics")


@settings(max_examples=500)
@given(st.lists(ORDINARY, min_size=1, max_size=20))
def test_words_ids_hashes_numbers_and_paths_stay(parts: list[str]) -> None:
    text = " ".join(parts)
    assume(not is_rightly_hidden(text))
    assert Redactor().text(text) == text


def test_of_random_long_numbers_few_are_taken_for_cards() -> None:
    numbers = [str(10**15 + 7919 * 10**11 * n % (9 * 10**15)) for n in range(1, 5001)]
    hidden = sum(Redactor().text(number) != number for number in numbers)
    assert hidden < len(numbers) * 0.06


@given(st.text(max_size=300))
def test_any_text_is_taken(text: str) -> None:
    once = Redactor().text(text)
    assert isinstance(once, str)


@given(
    st.sampled_from(sorted(BY_VALUE)),
    st.text(" .,;()\n", max_size=5),
    st.lists(ORDINARY, max_size=5),
    st.integers(0, 5),
)
def test_a_secret_among_ordinary_words_is_hidden(kind: str, gap: str, parts: list[str], place: int) -> None:
    secrets = [part for part in SECRET_PARTS.get(kind, [BY_VALUE[kind]]) if part not in " ".join(parts)]
    parts.insert(place, f"{gap} {BY_VALUE[kind]} ")
    shown = Redactor().text(" ".join(parts))
    assert not [part for part in secrets if part in shown]


@pytest.mark.parametrize(
    "piece",
    ["a://", "a:b@", "eyJ-", "eyJ.", "-----BEGIN X-----", "password='", "password={", "'password':", "4111 ", "DE89 ",
     "password=\\", "a=", '\\"', "Bearer ", "x://u:p", "'password': '\\", "{'token': [", "<token>",
     "--token ", "--token '", "token = ", "token = 'a", "<a>b"],
)  # fmt: skip
def test_hostile_text_takes_time_in_proportion_to_its_length(piece: str) -> None:
    Redactor().text(piece * (200_000 // len(piece)))


def test_long_text_is_cut_rather_than_shown_unseen() -> None:
    shown = Redactor().text("x " * 100_000 + "password=hunter2")
    assert "hunter2" not in shown
    assert shown.endswith("...")


def test_json_text_keeps_its_form() -> None:
    shown = json.loads(Redactor().text('{"user": {"name": "ada", "pin": 1234}, "n": [1, 2]}'))
    assert shown == {"user": {"name": "ada", "pin": MASK}, "n": [1, 2]}
    assert Redactor().text('{"n":1}') == '{"n":1}'


def test_patterns_of_the_settings_are_hidden() -> None:
    redactor = Redactor(patterns=[r"\bEMP-\d{6}\b"])
    assert redactor.text("employee EMP-123456 left") == f"employee {MASK} left"
    assert redactor.mask({"note": ["EMP-123456"]}) == {"note": [MASK]}
