"""How Sphinx builds these pages: ``sphinx-build -W --keep-going -n docs build/html``.

It needs no network. A page that is only in the repository, as an example is, is linked to there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import orchestrio

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "orchestrio"
author = "The orchestrio developers"
project_copyright = author
release = version = orchestrio.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
extensions += ["faces", "links", "llms_txt", "tables"]  # in _extensions
nitpicky = True
nitpick_ignore = [
    ("py:class", "Console"),  # of rich
    ("py:class", "ContextVar"),
    ("py:class", "Path"),
    ("py:exc", "EndOfStream"),  # of AnyIO
    ("py:class", "orchestrio.testing._simulation.scenario.Fault"),  # of a Scenario, to be printed
    ("py:obj", "timedelta"),
    ("py:obj", "extra"),  # of logging
]
default_role = "py:obj"  # in a docstring, what stands in single backticks is a name

myst_heading_anchors = 3  # links to a heading are those of the repository's pages

autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "exclude-members": "extra, extra_attributes, model_config",
}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

html_theme = "furo"
pygments_dark_style = "github-dark"  # the usual one underlines what is imported
html_title = f"orchestrio {release}"
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["orchestrio.css"]
html_theme_options = {
    "source_repository": "https://github.com/orchestrio/orchestrio",
    "source_branch": "main",
    "source_directory": "docs/",
    "navigation_with_keys": True,
}
