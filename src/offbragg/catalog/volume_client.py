"""The client of a volume: planes, lines and boxes, cut by the catalog's server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tiled.client import from_context
from tiled.client.container import Container

from offbragg.catalog.containers import VOLUMES
from offbragg.catalog.sent_cuts import HEADER, SentCut, as_array, plane_query, written
from offbragg.errors import CatalogError, NoSuchEntry

_LONG = 120.0  # s; the server needs up to 60 s for a cell


class VolumeClient(Container):
    """A volume in the catalog: its arrays, and what the server cuts out of it."""

    def plane(
        self,
        plane: str = "hk0",
        *,
        points: Sequence[Sequence[float]] | None = None,
        value: float | None = None,
        thickness: float = 0.0,
        level: int = 1,
        sigma: bool = False,
    ) -> SentCut:
        """Return a plane.

        Parameters
        ----------
        plane
            As ``hk0``, ``h0.5l``, ``-1kl``, ``hhl``; with commas any, as ``h,k,-h-k``.
        points
            Three points, r.l.u., that the plane goes through, instead of ``plane``.
        value
            Of the index that stands still, instead of the one in ``plane``.
        thickness
            Thickness over which the plane is averaged, r.l.u.
        level
            1; or 2, 4, 8 for coarser cells, which are sent sooner.
        sigma
            Whether the standard deviation is wanted, too. At a coarser level this is slower: whole
            cells are summed.

        Raises
        ------
        CatalogError
            If the server refuses it, with its reason.
        """
        return self._cut("plane", plane_query(plane, points, value, thickness), level, sigma)

    def line(
        self, line: str, *, thickness: float = 0.0, level: int = 1, sigma: bool = False
    ) -> SentCut:
        """Return a line, as ``h,0.5,0``; parameters and errors as for `plane`."""
        return self._cut("line", {"line": line, "thickness": thickness}, level, sigma)

    def box(self, box: str, *, level: int = 1, sigma: bool = False) -> SentCut:
        """Return a box, as ``-1:1,-1:1,0:0.5``; parameters and errors as for `plane`."""
        return self._cut("box", {"box": box}, level, sigma)

    def why(self, h: float, k: float, l: float) -> dict[str, Any]:  # noqa: E741
        """Return which frames and pixels made a cell, and which did not count and why.

        Parameters
        ----------
        h, k, l
            A point in the cell, r.l.u.

        Returns
        -------
        origin
            What ``offbragg why --json`` prints: ``verdict``, ``counts``, ``weight``, ``exact``,
            ``states``, ``reasons``, and ``pixels``, a list with file, frame, slow, fast, counts,
            weight (in units of ``weight_unit``) and state of each.

        Raises
        ------
        CatalogError
            If the server refuses it, with its reason.
        """
        return self._ask("why", {"hkl": written([(h, k, l)])}, timeout=_LONG).json()

    def picture(self, plane: str = "hk0", **parameters: Any) -> bytes:
        """Return a plane as PNG.

        Parameters
        ----------
        plane
            As for `plane`.
        parameters
            ``value``, ``thickness``, ``level``; ``low`` and ``high``, the ends of the colours.
        """
        return self._ask("plane", {"plane": plane, **parameters, "format": "png"}).content

    def _cut(self, kind: str, asked: Mapping[str, Any], level: int, sigma: bool) -> SentCut:
        answer = self._ask(kind, as_array(asked, level, sigma))
        return SentCut.read(answer.content, answer.headers[HEADER])

    def _ask(self, kind: str, asked: Mapping[str, Any], **more: Any) -> Any:
        server = str(self.context.api_uri).split("/api/")[0]
        key = self.path_parts[-1]
        http = self.context.http_client
        answer = http.get(f"{server}/{VOLUMES}/{key}/{kind}", params=dict(asked), **more)
        if answer.is_error:
            answer.read()
            raise CatalogError(f"volume {key}: {_reason(answer)}")
        return answer


class VolumeCatalog(Container):
    """The volumes of a catalog; an unknown key is refused."""

    def __getitem__(self, keys: Any, *args: Any) -> Any:
        """Return a volume by its key."""
        try:
            return super().__getitem__(keys, *args)
        except KeyError as error:
            if isinstance(error, NoSuchEntry):
                raise
            newest = ", ".join(list(self)[-5:]) or "none yet"
            raise NoSuchEntry(
                f"the catalog has no volume {keys!r}", lambda: f"; the newest are {newest}"
            ) from None


def volumes_of(client: Container) -> Any:
    """Return the volumes of the catalog of which a client shows something.

    Raises
    ------
    CatalogError
        If it has none: its server is of an earlier version.
    """
    try:
        return from_context(
            client.context, node_path_parts=[VOLUMES], structure_clients=client.structure_clients
        )
    except KeyError:
        raise CatalogError(
            f"the catalog has no container {VOLUMES!r}\nRestart offbragg serve: it is of an "
            "earlier version."
        ) from None


def _reason(answer: Any) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
