"""The verb for detectors that are known by name: panels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offbragg.cli.app import REDUCTION, AsJson, app
from offbragg.cli.terminal import check_free, say

if TYPE_CHECKING:
    from offbragg.panels import PanelType  # NumPy, which a help text does not need


@app.command(rich_help_panel=REDUCTION)
def panels(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Detector, as 'Eiger2 CdTe 4M'.", show_default="list all of them"
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", metavar="FILE", help="Write its gaps as a mask, .npy."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the detectors that are known by name, or write the gaps of one as a mask.

    A mask is needed where frames have counts or zeros in the gaps, as those of some programs do:
    `offbragg reduce --mask FILE`. The detector's own files mark them.
    """
    from offbragg.files.mask import write_mask
    from offbragg.panels import known_panels, panel_named

    if mask is not None and name is None:
        raise typer.BadParameter("--mask needs the NAME of the detector: offbragg panels")
    found = known_panels() if name is None else [panel_named(name)]
    if mask is not None:
        check_free(mask)
        write_mask(mask, found[0].gaps())
    if as_json:
        file = {} if mask is None else {"file": str(mask)}
        say(json.dumps({"panels": [_facts(panel) for panel in found], **file}))
        return
    for panel in found:
        rows, columns = panel.shape
        counting = 1.0 - panel.gaps().mean()
        say(
            f"{panel.name:20} {rows:5} × {columns:<5} pixels of {panel.pixel:.3f} mm, "
            f"{counting:.1%} of them count"
        )
    if mask is not None:
        say(mask)


def _facts(panel: PanelType) -> dict[str, Any]:
    return {
        "name": panel.name, "shape": list(panel.shape), "pixel_mm": panel.pixel,
        "module": list(panel.module), "gap": list(panel.gap), "seam": list(panel.seam),
    }  # fmt: skip
