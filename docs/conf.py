"""Sphinx: python -m sphinx -W --keep-going -b html docs OUTDIR. Nothing is fetched."""

from __future__ import annotations

import numbabn

project = "numbabn"
author = "The numbabn developers"
project_copyright = author
version = release = numbabn.__version__

extensions = ["sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build", "_generated", "examples", "figures"]
default_role = "code"
highlight_language = "python"
nitpicky = True

autodoc_typehints = "none"  # docstrings say what an argument is
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {release}"
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2}
html_show_sourcelink = False
html_copy_source = False
