from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.errors import ConfigurationError
from celery_guardrails.policy import Constant, Effective, Layer, Policy, faults, match_pattern, merge

FIELDS = {
    "max_attempts": st.integers(1, 9),
    "jitter": st.sampled_from(["full", "none", 0.5]),
    "owner": st.sampled_from([None, "payments", "growth"]),
    "backoff": st.builds(Constant, st.integers(0, 9)),
    "retry_on": st.sampled_from([None, (TimeoutError,)]),
    "severity": st.sampled_from(["info", "error"]),
}
layers = st.lists(st.fixed_dictionaries({}, optional=FIELDS).map(lambda values: (Policy(**values), values)), max_size=4)


@given(layers)
def test_field_by_field_the_strongest_layer_that_sets_it_wins(declared):
    effective = merge([Layer(str(place), policy) for place, (policy, _) in enumerate(declared)])
    for field in Policy.model_fields:
        place = next((place for place, (_, values) in enumerate(declared) if field in values), None)
        holder = Policy() if place is None else declared[place][0]
        assert getattr(effective.policy, field) == getattr(holder, field)
        assert effective.provenance[field] == ("default" if place is None else str(place))
    set_anywhere = {field for _, values in declared for field in values}
    assert effective.policy.model_fields_set == set_anywhere


def test_a_default_written_out_is_set():
    effective = merge([Layer("decorator", Policy(max_attempts=5)), Layer("class", Policy(max_attempts=9))])
    assert effective.policy.max_attempts == 5
    assert effective.provenance["max_attempts"] == "decorator"


def test_nothing_declared_is_the_default():
    assert merge([]) == Effective(Policy(), dict.fromkeys(Policy.model_fields, "default"))


def test_layers_that_bound_nothing_together_are_an_error():
    unbounded = [Layer("decorator", Policy(max_attempts=None)), Layer("policy", Policy(deadline=None))]
    with pytest.raises(ConfigurationError) as caught:
        merge(unbounded, task="shop.send")
    (fault,) = caught.value.faults
    assert (fault.task, fault.setting) == ("shop.send", "deadline")
    assert fault.problem == "decorator sets max_attempts=None and policy sets deadline=None"
    with faults.collecting() as found:
        effective = merge(unbounded, task="shop.send")
    assert found == [fault]
    assert effective.policy == Policy(max_attempts=None)
    assert effective.provenance["deadline"] == "default"
    with pytest.raises(ConfigurationError):
        merge(unbounded)


@pytest.mark.parametrize(
    ("patterns", "name", "expected"),
    [
        ([], "a.b", []),
        (["*", "billing.*", "billing.charge"], "billing.charge", ["billing.charge", "billing.*", "*"]),
        (["*", "billing.*"], "mail.send", ["*"]),
        (["*.charge", "billing.*"], "billing.charge", ["billing.*", "*.charge"]),
        (
            ["billing.*", "billing.c*", "billing.?harge"],
            "billing.charge",
            ["billing.c*", "billing.?harge", "billing.*"],
        ),
        (["billing.[a-c]*"], "billing.charge", ["billing.[a-c]*"]),
        (["Billing.*"], "billing.charge", []),
        (["*.a", "*.b.a"], "x.b.a", ["*.b.a", "*.a"]),
    ],
)
def test_patterns_match_most_specific_first(patterns, name, expected):
    assert [pattern for pattern, _ in match_pattern(dict.fromkeys(patterns, 1), name)] == expected
