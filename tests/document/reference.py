"""The rows of the documentation's tables, from the module that Sphinx takes them from; Sphinx itself is not needed."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from typing import Any

from tests.harness import ROOT

__all__ = ["field_table"]


@cache
def field_table() -> Any:
    """The module `docs/extension/field_table.py`."""
    spec = importlib.util.spec_from_file_location("field_table", ROOT / "docs" / "extension" / "field_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["field_table"] = importlib.util.module_from_spec(spec)  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module
