"""Sphinx configuration."""

from binance_insurance import __version__

project = "binance_insurance"
author = "The binance_insurance maintainers"
project_copyright = "2026, The binance_insurance maintainers"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!binance_insurance\b).*"),  # other projects' names
    ("py:class", r".*\.T"),  # type variables
]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
default_role = "code"

html_theme = "furo"
html_title = "binance_insurance"
html_static_path = ["_static"]
html_css_files = ["small.css"]
