"""Sphinx configuration: `make docs` builds the pages of this folder into docs/_build."""

project = "orchestrate"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "orchestrate"
exclude_patterns = ["_build"]
myst_heading_anchors = 4
