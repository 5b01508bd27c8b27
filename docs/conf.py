"""The site of the documentation: `make docs` builds it with Sphinx from these pages and from the docstrings."""

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
html_copy_source = False
html_show_sphinx = False
