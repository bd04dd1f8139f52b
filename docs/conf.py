"""How Sphinx builds the documentation: `make docs`. Warnings are errors there, and so is a name that leads nowhere."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extension"))
logging.getLogger("alembic").setLevel(logging.WARNING)  # Sphinx imports the whole package, and shows what it logs

project = "celery-guardrails"
author = "celery-guardrails contributors"
project_copyright = author
release = version = installed_version("celery-guardrails")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "guardrails_table",
]
exclude_patterns = ["extension", "README.md"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
# each heading down to `###` has an anchor of its own, as on GitHub: [text](page.md#the-heading)
myst_heading_anchors = 3

html_theme = "furo"
html_title = "celery-guardrails"
html_static_path: list[str] = []
html_show_sphinx = False
html_copy_source = False

autodoc_member_order = "bysource"
# what may be written is in the words of each docstring; the models' own annotations name their validators
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# one pair of backticks is code in docstrings, too
default_role = "code"
nitpicky = True
# other packages' names: no build asks the network where they are described
nitpick_ignore_regex = [("py:.*", r"(celery|kombu|pydantic)\..*")]
