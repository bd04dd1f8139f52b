"""The directive `guardrails-table`: a table of `field_table.py` on a page.

```{guardrails-table} settings dead_letter
```
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from field_table import TABLES, table
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

__all__ = ["GuardrailsTable", "setup"]


class GuardrailsTable(SphinxDirective):
    """Puts a table where it stands; its arguments are the table's name and, where it has several, the section."""

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table, read as the Markdown that it is."""
        name, section = (*self.arguments, "")[:2]
        if name not in TABLES or section not in TABLES[name]:
            raise self.error(f"no table {name} {section}: there are {dict(TABLES)}")
        holder = nodes.container(classes=["field-table"])
        lines = table(name, section).splitlines()
        self.state.nested_parse(StringList(lines, source=self.get_source_info()[0]), 0, holder)
        return [holder]


def setup(app: Sphinx) -> dict[str, Any]:
    """Make the directive known."""
    app.add_directive("guardrails-table", GuardrailsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
