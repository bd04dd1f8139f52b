"""How Sphinx builds the documentation: `make docs`. Warnings are errors there, and so is a name that leads nowhere."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extension"))

project = "celery-guardrails"
author = "celery-guardrails contributors"
project_copyright = author
release = version = installed_version("celery-guardrails")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
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
autodoc_typehints = "description"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

nitpicky = True
