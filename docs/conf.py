"""Sphinx configuration of the user guide."""

project = "morphomil"
author = "The morphomil developers"
copyright = "2026, the morphomil developers"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
myst_enable_extensions = ["dollarmath"]
nb_execution_mode = "off"  # the tests execute the notebooks; the pages show their stored outputs
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]
autodoc_typehints = "description"
