"""What is declared is used: every setting, every field of a policy and every member of an enumeration has a reader.

A setting that is accepted, validated, and read by nothing promises what nothing does. Readers are found in the source:
`settings.slack.proxy`, `policy.owner`, `Reason.EXPIRED`, and what a name in the same function or its annotation stands
for. Where values are validated, merged and described, every field is met, so these modules do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache

import pytest

from celery_guardrails.policy import Policy
from celery_guardrails.settings import Settings, sections
from tests.document.reference import field_table
from tests.harness import ROOT

PACKAGE = ROOT / "celery_guardrails"
NO_READERS = {"settings.py", "policy/policy.py", "policy/merge.py", "policy/declaration.py", "policy/field.py"}
LATER: dict[str, str] = {}
"""What is announced for later, with the words by which the documentation says so."""
UNNAMED = {"Category.WORKER_LOST": "policy/catalogue.py names it by its value"}
"""Members of enumerations that no code names, and why they are there."""


@cache
def modules() -> dict[str, ast.Module]:
    found = sorted(PACKAGE.rglob("*.py"))
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text("utf-8")) for path in found}


def kind_of(node: ast.expr, names: dict[str, str]) -> str | None:
    """What an expression holds, as far as that shows: `settings`, a section's name, or `policy`."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id if node.id in ("settings", "policy") else None)
    if not isinstance(node, ast.Attribute):
        return None
    if node.attr in ("settings", "policy"):
        return node.attr
    return node.attr if kind_of(node.value, names) == "settings" and node.attr in sections() else None


def names_in(function: ast.AST) -> dict[str, str]:
    """What the names of a function hold: by their annotations, and by what is assigned to them."""
    classes = {"Settings": "settings", "Policy": "policy"}
    classes |= {Settings.model_fields[name].annotation.__name__: name for name in sections()}  # type: ignore[union-attr]
    names: dict[str, str] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.arg) and isinstance(node.annotation, ast.Name) and node.annotation.id in classes:
            names[node.arg] = classes[node.annotation.id]
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = (
                    zip(target.elts, node.value.elts, strict=False)
                    if _both_tuples(target, node.value)
                    else [(target, node.value)]
                )  # type: ignore[attr-defined]
                names |= {t.id: kind for t, v in pairs if isinstance(t, ast.Name) and (kind := kind_of(v, names))}
    return names


def _both_tuples(target: ast.expr, value: ast.expr) -> bool:
    return isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)


@cache
def reads() -> frozenset[str]:
    """Every read that shows, such as `settings.enabled`, `slack.proxy`, `policy.owner`."""
    found: set[str] = set()
    for name, module in modules().items():
        if name not in NO_READERS:
            found.update(_reads_in(module))
    return frozenset(found)


def _reads_in(module: ast.Module) -> Iterator[str]:
    for function in [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]:
        names = names_in(function)
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and (kind := kind_of(node.value, names)):
                yield f"{kind}.{node.attr}"
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                # `{name: getattr(policy, name) for name in names}`: the names are in the function's own text
                kind = kind_of(node.args[0], names)
                words = [each.value for each in ast.walk(function) if isinstance(each, ast.Constant)]
                yield from (f"{kind}.{word}" for word in words if kind and isinstance(word, str))


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_every_setting_is_read(field: str) -> None:
    assert f"settings.{field}" in reads()


@pytest.mark.parametrize(
    "field", sorted(f"{section}.{name}" for section, names in sections().items() for name in names)
)
def test_every_setting_of_a_section_is_read(field: str) -> None:
    assert field in reads()


@pytest.mark.parametrize("field", sorted(Policy.model_fields))
def test_every_field_of_a_policy_is_read_or_announced(field: str) -> None:
    if field in LATER:
        (row,) = [row for row in field_table().policy_rows() if row.name == field]
        assert LATER[field] in row.meaning
        assert f"policy.{field}" not in reads()
    else:
        assert f"policy.{field}" in reads()


def test_a_field_that_nothing_reads_is_found() -> None:
    source = (
        "def f(settings):\n    chosen, x = settings.slack, 1\n    return chosen.proxy\ndef g(s: SlackSettings): s.token"
    )
    assert set(_reads_in(ast.parse(source))) == {"settings.slack", "slack.proxy", "slack.token"}


def members() -> Iterator[tuple[str, str, str]]:
    for name, module in modules().items():
        for node in ast.walk(module) if not name.startswith("testing/") else ():  # what tests of others may choose from
            if isinstance(node, ast.ClassDef) and any("Enum" in ast.unparse(base) for base in node.bases):
                for each in node.body:
                    if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name):
                        yield name, node.name, each.targets[0].id


def test_every_member_of_an_enumeration_is_named_somewhere() -> None:
    named = {
        f"{ast.unparse(node.value)}.{node.attr}"
        for module in modules().values()
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute)
    }
    unnamed = [f"{owner}.{member}" for _, owner, member in members() if f"{owner}.{member}" not in named]
    if not any(each.startswith("AttemptOutcome.") for each in named):  # its room has its types before its counters
        unnamed = [each for each in unnamed if not each.startswith("AttemptOutcome.")]
    assert sorted(unnamed) == sorted(UNNAMED)
