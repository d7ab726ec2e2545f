"""Patches of FastAPI and Tiled that save work which these repeat at each request.

None of them changes an answer. They replace private functions; where a version does not have such a
function, requests take as long as without the patch.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

from offbragg.catalog import counted_children, indexed_queries
from offbragg.private_parts import PrivatePart, examine

_log = logging.getLogger(__name__)

_ARGUMENTS = {"path", "call", "name", "parent_oauth_scopes", "scope", "concurrency"}
_kept: list[Any] = []


def apply() -> None:
    """Apply the patches in this process; log those that these versions do not allow."""
    for part in self_test():
        if not part.active:
            _log.warning("%s", part)


def self_test() -> list[PrivatePart]:
    """Apply all patches in this process, and return which of them are active."""
    return [
        examine("fastapi", "dependencies analysed once", _remember_dependencies),
        examine("tiled", "models of answers kept", _keep_models),
        examine("tiled", "a node looked up at once", _look_up_at_once),
        examine("tiled", "the statement for a node kept", _keep_statements),
        indexed_queries.self_test(),
        counted_children.self_test(),
    ]


def _remember_dependencies() -> None:
    """Let FastAPI analyse a dependency once.

    It does so at each request if any dependency is replaced by another, as Tiled replaces one.
    """
    from fastapi.dependencies import utils

    original = utils.get_dependant
    if hasattr(original, "__wrapped__"):
        return
    remembered: dict[Any, Any] = {}

    @functools.wraps(original)
    def get_dependant(**asked: Any) -> Any:
        # results for routes that are being made are changed afterwards; those for requests are not
        if asked.keys() != _ARGUMENTS or asked["concurrency"] is not None:
            return original(**asked)
        key = (
            *(asked[name] for name in ("path", "call", "name", "scope")),
            *(asked["parent_oauth_scopes"] or ()),
        )
        if key not in remembered:
            remembered[key] = original(**asked)
        return remembered[key]

    utils.get_dependant = get_dependant


def _keep_models() -> None:
    """Keep the models of Tiled's answers; pydantic makes a model again if it was not kept."""
    from tiled.server import schemas

    kinds = schemas.resource_links_type_by_structure_family.values()
    attributes, empty = schemas.NodeAttributes, schemas.EmptyDict
    _kept.extend(schemas.Resource[attributes, links, empty] for links in kinds)
    _kept.append(schemas.Resource[attributes, schemas.ContainerLinks, schemas.ContainerMeta])


def _look_up_at_once() -> None:
    """Let Tiled ask its database for a node once, instead of for each node on the path to it.

    It goes step by step because of access policies; if there is one, it still does.
    """
    from tiled.server import router

    walk = router.get_entry
    if hasattr(walk, "__wrapped__"):
        return
    signature = _signature(walk, "path", "root_tree", "access_policy")

    @functools.wraps(walk)
    async def get_entry(*args: object, **kwargs: object) -> Any:
        asked = signature.bind(*args, **kwargs).arguments
        segments = [segment for segment in asked["path"].split("/") if segment]
        if asked.get("access_policy") is None and segments:
            asked["root_tree"] = _PathToNode(asked["root_tree"], len(segments))
        return await walk(**asked)

    router.get_entry = get_entry


def _signature(function: Callable[..., object], *parameters: str) -> inspect.Signature:
    """Return the signature of a function that has certain parameters."""
    signature = inspect.signature(function)
    if lacking := [name for name in parameters if name not in signature.parameters]:
        raise TypeError(f"{function.__name__} takes no {', '.join(lacking)}")
    return signature


class _PathToNode:
    """Stands for every node on the path to one, and looks up only the last one."""

    def __init__(self, root: Any, depth: int) -> None:
        self._root = root
        self._depth = depth
        self._segments: list[str] = []

    async def lookup_adapter(self, segments: Sequence[str]) -> Any:
        self._segments += segments
        if len(self._segments) < self._depth:
            return self
        return await self._root.lookup_adapter(self._segments)


def _keep_statements() -> None:
    """Keep the statement that looks up a node; only the names differ between requests."""
    from sqlalchemy import bindparam
    from tiled.catalog import adapter

    build: Any = adapter.node_from_segments
    if hasattr(build, "__wrapped__"):
        return
    _signature(build, "segments", "root_id")

    @functools.cache
    def of_depth(depth: int) -> Any:
        return build([bindparam(f"segment_{i}") for i in range(depth)], root_id=bindparam("root"))

    @functools.wraps(build)
    def node_from_segments(segments: Sequence[str], root_id: int = 0) -> Any:
        names = {f"segment_{i}": segment for i, segment in enumerate(segments)}
        return of_depth(len(segments)).params(root=root_id, **names)

    adapter.node_from_segments = node_from_segments
