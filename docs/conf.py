"""Sphinx configuration: MyST pages, reference pages generated from the code."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

# Importing devices imports a Channel Access client: keep it to this machine.
os.environ.setdefault("EPICS_CA_AUTO_ADDR_LIST", "NO")
os.environ.setdefault("EPICS_CA_ADDR_LIST", "127.0.0.1")

os.environ["COLUMNS"] = "88"  # the width of help texts

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "offbragg"
author = "the offbragg developers"
copyright = "the offbragg developers"
version = release = installed_version("offbragg")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",
    "offbragg_reference",
]

# Each generated page and what it is made from. A source that cannot be imported is a
# warning, and with -W the build fails: a page never goes stale in silence.
offbragg_reference = {
    "configuration": "offbragg.beamline.config",
    "devices": "offbragg.devices",
    "plans": "offbragg.plans",
    "command-line": "offbragg.cli",
    "file-layout": "offbragg.files.scan_writer",
    "start-document": "offbragg.metadata",
    "errors": "offbragg.errors",
    "limits": "offbragg.catalog",
    "simulator": "sim_iocs",
}

source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "_ext", "reference/generated"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nitpicky = False

smartquotes = False
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"NDArray": "NDArray", "ArrayLike": "ArrayLike", "Array": "Array"}
autodoc_class_signature = "mixed"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = False

try:
    import furo  # noqa: F401
except ImportError:
    html_theme = "alabaster"
else:
    html_theme = "furo"
html_math_renderer = "mathml"
html_title = "offbragg"
html_copy_source = False
html_show_sphinx = False
