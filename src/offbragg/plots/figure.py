"""Figures: made, checked before the work begins, saved."""

from __future__ import annotations

import io
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbragg.errors import ReductionError
from offbragg.files.draft import draft

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_picture(path: Path) -> None:
    """Refuse a picture that could not be written, before the work that it would show.

    Raises
    ------
    ReductionError
        If its suffix is none of a picture, or its folder is not there or cannot be written.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    if path.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise ReductionError(f"{path} is not a picture: its name must end with .png, .pdf or .svg")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
            raise ReductionError(f"{path} cannot be written: it is a folder, or protected")
    except OSError as error:
        raise ReductionError(f"{path} cannot be written: {error.strerror}") from error


def save_figure(figure: Figure, path: Path, *, dpi: int = 150) -> None:
    """Write a picture, whole or not at all, in the format that its suffix names.

    Raises
    ------
    ReductionError
        As `check_picture` does.
    """
    check_picture(path)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, format=path.suffix[1:].lower())
    try:
        with draft(path) as made:
            made.write(drawn.getvalue())
            made.place(replace=True)
    except OSError as error:
        raise ReductionError(f"{path} cannot be written: {error.strerror}") from error


def new_figure(width: float, height: float) -> Figure:
    """Make a figure that needs no window, and that a notebook shows; inches."""
    return _notebook_figure()(figsize=(width, height), layout="constrained")


@cache
def _notebook_figure() -> type[Figure]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """A figure that shows itself, whether pyplot was imported or not."""

        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            FigureCanvasAgg(self)

        def _repr_png_(self) -> bytes:
            out = io.BytesIO()
            self.savefig(out, format="png", dpi=100)
            return out.getvalue()

    return NotebookFigure
