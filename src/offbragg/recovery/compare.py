"""A run in the catalog compared with its scan file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from tiled.client.utils import ClientError  # pyright: ignore[reportMissingTypeStubs]

from offbragg.catalog.exact import storable
from offbragg.errors import CatalogError
from offbragg.files.examine import FileContents
from offbragg.followers.publisher import find_published
from offbragg.followers.run_documents import frame_totals, image_key

if TYPE_CHECKING:
    from bluesky_tiled_plugins.clients.catalog_of_bluesky_runs import CatalogOfBlueskyRuns  # pyright: ignore[reportMissingTypeStubs]


def differences(client: CatalogOfBlueskyRuns, path: Path, seen: FileContents) -> list[str]:
    """Compare a run in the catalog with its scan file.

    Raises
    ------
    CatalogError
        If the catalog cannot be asked.
    """
    try:
        return _differences(client, path, seen)
    except (httpx.HTTPError, ClientError) as error:
        raise CatalogError(f"the catalog refused a request: {error}") from error


def _differences(client: CatalogOfBlueskyRuns, path: Path, seen: FileContents) -> list[str]:
    run: Any = find_published(client, seen.run)
    if run is None:
        return [f"it has no run {seen.run}"]
    found: list[str] = []
    start: dict[str, Any] = run.metadata.get("start") or {}
    stop: dict[str, Any] = run.metadata.get("stop") or {}
    expected_start = storable(seen.start)
    if json.loads(json.dumps(start)) != expected_start:
        changed = sorted(
            k for k in start.keys() | expected_start.keys() if start.get(k) != expected_start.get(k)
        )
        found.append(f"its start document has other {', '.join(changed)}")
    if not seen.complete:
        return found
    published: dict[str, Any] = stop.get("offbragg") or {}
    counts = {status: seen.statuses.count(status) for status in set(seen.statuses)}
    expected = frame_totals({"stored": 0, "missing": 0, "rejected": 0} | counts)
    if not stop:
        found.append("it has no stop document")
        return found
    if published.get("frames") != expected:
        found.append(f"it counts {published.get('frames')}, the ledger {expected}")
    if Path(published.get("scan_file", "")).resolve() != path.resolve():
        found.append(f"its frames are those of {published.get('scan_file')}")
        return found
    if "primary" not in set(run):
        found.append("it has no stream primary")
        return found
    primary = run["primary"]
    if image_key(seen.start) not in set(primary):
        found.append(f"its stream primary has no {image_key(seen.start)}")
        return found
    stack = primary[image_key(seen.start)]
    shape = (seen.n_frames, *seen.shape)
    if tuple(stack.shape) != shape:
        found.append(f"its stack has the shape {tuple(stack.shape)}, the file {shape}")
    status = [str(word) for word in primary["status"].read()]
    for number, (there, here) in enumerate(zip(status, seen.statuses, strict=False)):
        if there != here:
            found.append(f"frame {number} is {there} there and {here} in the file")
    if len(status) != seen.n_frames:
        found.append(f"it has {len(status)} rows for {seen.n_frames} frames")
    return found[:20]
