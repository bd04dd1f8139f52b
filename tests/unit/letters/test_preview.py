from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.letters.preview import named_in_items, named_values, preview
from celery_guardrails.redaction import MASK, Redactor

SECRET = "s3cr3t-v4lue"


@pytest.mark.parametrize(
    "name",
    [
        "password", "PASSWORD", "user_password", "userPassword", "X-Api-Key", "api_key", "apiKey", "accessToken",
        "authorization", "auth", "basic_auth", "sessionid", "credit_card", "card", "cardNumber", "iban",
        "client_secret",
        "SSN", "customer_ssn", "pin", "cvv", "private_key", "Set-Cookie", "sms_otp",
    ],
)  # fmt: skip
def test_usual_names_are_hidden(name: str) -> None:
    assert Redactor().hides(name)


@pytest.mark.parametrize(
    "name", ["order_id", "author", "discard", "shipping", "cardinal", "sessions_count", "mapping", "postcard", 7, None]
)
def test_harmless_names_are_shown(name: object) -> None:
    assert not Redactor().hides(name)


def test_names_of_the_policy_are_hidden_in_any_spelling() -> None:
    redactor = Redactor(["birth_date"])
    assert redactor.hides("birthDate")
    assert redactor.hides("BIRTH-DATE")
    assert not redactor.hides("birth")


NAMES = st.sampled_from(["password", "token", "order_id", "note", "apiKey"])
NESTED = st.recursive(
    st.just(SECRET).map(lambda secret: {"password": secret}) | st.just({"card_number": SECRET}) | st.just(1),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        | st.tuples(st.just("token"), st.just(SECRET))
    ),
    max_leaves=10,
)


@given(NESTED, NESTED)
def test_no_seeded_secret_is_shown_at_any_depth(first: Any, second: Any) -> None:
    shown = preview([first, SECRET], {"data": second, "Api-Key": SECRET}, ["data", "passwd"], Redactor())
    assert SECRET not in shown.args
    assert SECRET not in shown.kwargs
    assert MASK in shown.kwargs


def test_previews_are_cut_and_say_so() -> None:
    shown = preview(["x" * 10_000], {}, [], Redactor(), limit=100)
    assert shown.truncated
    assert len(shown.args) <= 103
    assert not preview([1], {}, [], Redactor()).truncated


def test_long_and_deep_containers_are_cut() -> None:
    deep: list[Any] = []
    deep.append(deep)
    masked = Redactor().mask({"deep": deep, "long": list(range(1000)), "many": {str(n): n for n in range(300)}})
    assert masked["long"][-1] == "... 900 more"
    assert masked["many"]["..."] == "200 more"
    assert "[...]" in repr(masked["deep"])


@pytest.mark.parametrize(
    "value",
    ["x y " * 2_000_000, ["x" * 50_000] * 100, {f"k{n}": {f"j{m}": "x" * 300 for m in range(100)} for n in range(100)}],
    ids=["one text", "texts", "mappings"],
)
def test_of_huge_arguments_no_more_is_looked_at_than_a_preview_needs(value: Any) -> None:
    seen: list[int] = []

    class Counting(Redactor):
        def _cleaned(self, cut: str) -> str:
            seen.append(len(cut))
            return super()._cleaned(cut)

    shown = preview((value,), {"a": value}, ["a"], Counting())
    assert shown.truncated
    assert sum(seen) < 200_000
    assert len(seen) < 10_000


def test_a_secret_beside_a_cut_is_not_shown_in_half() -> None:
    for before in range(0, 400, 7):
        text = "token=" + "a" * 67_000 + "x" * before
        shown = preview((["Bearer " + "b" * 3_000] * 30, text + " redis://:hunter2hunter2@cache/0"), {}, [], Redactor())
        assert "hunter" not in shown.args


def test_a_broken_repr_is_a_remark() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert preview([Broken()], {}, [], Redactor()).args == "(<Broken>,)"
    assert named_values(["x"], {"x": Broken()}, Redactor())["x"] == "<Broken>"


def test_named_values_look_into_mappings_and_stay_hidden_when_redacted() -> None:
    class User:
        id = 7

    arguments = {"order": {"id": 5, "card": {"number": SECRET}}, "user": User(), "email": "a@b", "none": None}
    wanted = ["order.id", "user.id", "missing", "order.missing", "email", "order.card", "none"]
    assert named_values(wanted, arguments, Redactor(["email"])) == {
        "order.id": "5", "user.id": "7", "email": MASK, "order.card": MASK,
    }  # fmt: skip


def test_values_of_many_items_are_several_and_bounded() -> None:
    items = [{"user": f"u{n % 3}", "shop": "s", "password": n} for n in range(7)]
    found = named_in_items(("user", "shop", "password", "none"), items, Redactor())
    assert found == {"user": ("u0", "u1", "u2"), "shop": "s", "password": MASK}
    many = named_in_items(("user",), ({"user": "x" * 500 + str(n)} for n in range(1000)), Redactor())
    assert many == {"user": "x" * 200}
    assert len(named_in_items(("user",), ({"user": str(n)} for n in range(1000)), Redactor())["user"]) == 100
