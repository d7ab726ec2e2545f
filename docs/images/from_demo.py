"""Make the pictures of README and tutorial from a finished demo: from_demo.py FOLDER.

They are the demo's own, in 128 colours, so that a reader of the repository waits for 0.1 MB and not
for 0.5 MB.
"""

import sys
from pathlib import Path

from PIL import Image

PICTURES = ("hk0", "hk0.5", "order-parameter", "superlattice")


def main(folder: Path) -> None:
    """Write those that the pages show beside this file."""
    for name in PICTURES:
        picture = Image.open(folder / f"perovskite-{name}.png").convert("RGB")
        picture.quantize(128).save(Path(__file__).with_name(f"{name}.png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
