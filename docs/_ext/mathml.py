"""Formulas as MathML, which browsers draw themselves: no script from elsewhere, works offline."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger(__name__)


def formula(node: Any, *, as_block: bool) -> str:
    """Translate one formula; one that cannot be translated is a warning."""
    text = node.astext()
    try:
        return tex2mathml(text, as_block=as_block)
    except MathError as reason:
        log.warning("formula cannot be drawn: %s: %s", text, reason, location=node)
        return f"<code>{text}</code>"


def visit_inline(translator: Any, node: Any) -> None:
    """Write a formula within a line."""
    translator.body.append(formula(node, as_block=False))
    raise nodes.SkipNode


def visit_block(translator: Any, node: Any) -> None:
    """Write a formula on lines of its own."""
    translator.body.append(f'<div class="math">{formula(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer under the name that ``html_math_renderer`` asks for."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "version": "1"}
