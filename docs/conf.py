"""The site of the documentation: `make docs` builds it with Sphinx from these pages and from the docstrings."""

import re

import lpgpu

project = "lpgpu"
author = "the lpgpu authors"
version = release = lpgpu.__version__
project_copyright = f"2026, {author}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["drawings/*.md"]
myst_heading_anchors = 3
myst_links_external_new_tab = True

default_role = "literal"  # docstrings put names into single backticks, as Markdown does
add_module_names = False
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 90
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_use_ivar = True  # "Attributes" are a list, not entries of their own

html_theme = "furo"
html_title = f"lpgpu {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def setup(app) -> None:
    """Docstrings are changed after napoleon has read them."""
    app.connect("autodoc-process-docstring", _keep_names_together, priority=900)
    app.connect("autodoc-process-docstring", _keep_formulas, priority=900)


def _keep_names_together(app, what, name, obj, options, lines: list[str]) -> None:
    """Of "a, b: what both are", where napoleon takes the first for a type."""
    lines[:] = [
        re.sub(r"^(:(?:ivar|param) [\w*, ]+:)", lambda match: match[1].replace(", ", ","), each) for each in lines
    ]


def _keep_formulas(app, what, name, obj, options, lines: list[str]) -> None:
    """Indented lines of a module's docstring are as they are, as in Markdown."""
    if what == "module":
        starts = [i for i, line in enumerate(lines) if line.startswith("    ") and i and not lines[i - 1]]
        for i in reversed(starts):
            lines[i:i] = ["::", ""]
