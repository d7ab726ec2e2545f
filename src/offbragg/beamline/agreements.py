"""Check that a device meets the agreements of `offbragg.protocols`, when it is built.

What a plan would meet in the middle of a night is found before anything moves: a member that is
missing, misspelt, of another kind, or that cannot be called as plans call it. No property is read,
so a device need not be connected.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches
from typing import Any

from offbragg import protocols
from offbragg.errors import DeviceError
from offbragg.protocols import (
    MAY_HAVE,
    Attenuator,
    Axis,
    Detector,
    Flyer,
    MeasuresStart,
    Permit,
    SampleEnvironment,
    Shutter,
    has,
    meets,
    members,
)

_CLOSE = 0.8  # ratio of difflib from which a name is taken for a misspelt one
_NEAR = 0.6  # from which one is offered for a member that is missing
_ENDINGS = ("s", "d", "ed", "r", "er", "ing")
_MAY_BE_ASYNC = ("describe_collect", "get_index", "collect_asset_docs")
"""Methods that the RunEngine awaits if they are coroutines; of all others it wants the result."""

_OTHER_VERBS = frozenset(
    (
        "read", "describe", "trigger", "read_configuration", "describe_configuration", "configure",
        "pause", "resume", "stop", "subscribe", "clear_sub", "check_limits", "move", "get", "put",
        "wait", "destroy", "summary",
    )
)  # fmt: skip
"""What Bluesky and ophyd ask of devices, which is not a misspelling."""


@dataclass(frozen=True, slots=True)
class Agreements:
    """What a device agrees to.

    Parameters
    ----------
    roles
        Names of protocols that it meets, each with those of the small ones that it meets as well.
    problems
        What is wrong, a line each; each is a reason not to use the device.
    doubts
        Names that may be misspelt, a line each.
    """

    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    def __str__(self) -> str:
        whole = {protocol.__name__ for protocol in MAY_HAVE}
        shown = [role for role in self.roles if role in whole] or list(self.roles)
        return ", ".join(_with_article(role) for role in shown)


def agreements_of(device: object, wanted: Mapping[str, type] | None = None) -> Agreements:
    """Find out which agreements a device meets, and where it fails.

    Parameters
    ----------
    device
        The device; it need not be connected.
    wanted
        Roles that it must have: what asks for it, as "[defaults] detector" → protocol.

    Examples
    --------
    >>> class Field:
    ...     name = "field"
    ...     def set(self, value, timeout): ...
    >>> print(agreements_of(Field()).problems[0])
    field is not a SampleEnvironment: it has set(value, timeout), and plans call set(value)
    """
    asked = dict(wanted or {})
    roles = {protocol: why for why, protocol in asked.items()}
    for protocol in _implied(device):
        roles.setdefault(protocol, "")
    met: dict[str, tuple[str, ...]] = {}
    problems: list[str] = []
    doubts: list[str] = []
    known = _known_names()
    for protocol, why in roles.items():
        wrong = list(_wrong(device, protocol, why))
        optional = MAY_HAVE.get(protocol, ())
        for small in optional:
            wrong += _wrong_small(device, small)
        problems += wrong
        for small in optional:
            for problem, is_sure in _misspelt(device, small, known):
                (problems if is_sure else doubts).append(problem)
        if not wrong:
            met[protocol.__name__] = tuple(s.__name__ for s in optional if meets(device, s))
    return Agreements(met, tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(doubts)))


def check_device(device: object, wanted: Mapping[str, type] | None = None) -> Agreements:
    """Refuse a device that fails an agreement.

    Parameters
    ----------
    device, wanted
        As for `agreements_of`.

    Raises
    ------
    DeviceError
        Naming the device, the protocol, the member and the nearest right name.
    """
    found = agreements_of(device, wanted)
    if found.problems:
        first, *others = found.problems
        cls = type(device)
        raise DeviceError(
            "\n".join(
                [
                    first,
                    *others,
                    f"Correct the class {cls.__module__}:{cls.__qualname__}; what plans ask of "
                    "devices is described in explanations/plug-points.",
                ]
            )
        )
    return found


# -- which roles a device plays ------------------------------------------------------------------


def _implied(device: object) -> Iterator[type]:
    """Return the roles that a device has by its members, be one of them missing or misspelt.

    A flyer of Bluesky's older kind has no ``prepare``; one that prepares for something else than a
    sweep, as devices of ophyd-async do, is not for these plans. Neither is looked at further.
    """
    verbs = [name for name in ("prepare", "kickoff", "complete") if has(device, name)]
    own = _own_names(device)
    prepares = has(device, "prepare") or _nearest("prepare", own, _CLOSE)
    if len(verbs) + bool(prepares and "prepare" not in verbs) >= 2 and prepares:
        if _takes_another(device, protocols.Flies, "prepare"):
            return
        if has(device, "collect_asset_docs") or meets(device, MeasuresStart):
            yield Detector
        elif has(device, "set") or has(device, "position") or has(device, "read_backs"):
            yield Axis
        elif has(device, "collect_pages") or has(device, "per_frame"):
            yield Flyer
        elif _nearest("collect_asset_docs", own, _CLOSE):
            yield Detector
        elif _nearest("collect_pages", own, _CLOSE):
            yield Flyer
    elif has(device, "set") and any(has(device, name) for name in members(protocols.Settles)):
        yield SampleEnvironment
    elif has(device, "set", callable=True) and _is_defined_here(device, "set"):
        yield _by_what_it_sets(device)
    if has(device, "ok", callable=True) and has(device, "beam"):
        yield Permit


def _by_what_it_sets(device: object) -> type:
    if has(device, "is_open"):
        return Shutter
    return Attenuator if has(device, "attenuation") else SampleEnvironment


def _is_defined_here(device: object, name: str) -> bool:
    """Return whether a member is the author's own, and not one of ophyd's or Bluesky's classes."""
    return any(name in vars(cls) for cls in _own_classes(device))


# -- what is wrong with it ------------------------------------------------------------------------


def _wrong(device: object, protocol: type, why: str) -> Iterator[str]:
    """Find what a device lacks for a role, one line each."""
    title = _with_article(protocol.__name__)
    begin = f"{_name_of(device)} is not {title}{f' ({why})' if why else ''}"
    wanted = members(protocol)
    own = _own_names(device)
    for name, member in wanted.items():
        if not has(device, name, callable=not isinstance(member, property)):
            near = _nearest(name, [each for each in own if each not in wanted], _NEAR)
            hint = f"; it has {near!r}: rename it to {name!r}" if near else ""
            yield f"{begin}: it has no {name!r}{hint}"
        elif problem := _of_another_kind(device, protocol, name, member):
            yield f"{begin}: {problem}"


def _wrong_small(device: object, protocol: type) -> Iterator[str]:
    """Find what is wrong with a small agreement that a device has, or has a part of."""
    wanted = members(protocol)
    lacking = [
        name
        for name, member in wanted.items()
        if not has(device, name, callable=not isinstance(member, property))
    ]
    marks = _marks(protocol)
    begun = [name for name in marks if has(device, name)]
    if lacking and not begun:
        return
    if lacking:
        own = [name for name in _own_names(device) if name not in wanted]
        for name in lacking:
            near = _nearest(name, own, _NEAR)
            hint = f"; it has {near!r}: rename it to {name!r}" if near else ""
            yield (
                f"{_name_of(device)} has {', '.join(map(repr, begun))} of {protocol.__name__} but "
                f"no {name!r}{hint}"
            )
    for name, member in wanted.items():
        if name not in lacking and (problem := _of_another_kind(device, protocol, name, member)):
            yield f"{_name_of(device)} does not meet {protocol.__name__}: {problem}"


def _marks(protocol: type) -> list[str]:
    """Return members that no other agreement has: who has one means this agreement."""
    others = {
        name
        for other in {*MAY_HAVE, *(small for each in MAY_HAVE.values() for small in each)}
        if other is not protocol
        for name in members(other)
    }
    return [name for name in members(protocol) if name not in others]


def _of_another_kind(device: object, protocol: type, name: str, member: object) -> str:
    """Return why a member is not what plans take it for, or an empty string."""
    static = inspect.getattr_static(device, name, None)
    if isinstance(member, property):
        if inspect.isroutine(static) and not isinstance(static, property):
            return f"{name!r} is a method, and plans read it as an attribute (@property)"
        return ""
    if static is None:  # found only when it is asked for
        return ""
    if not inspect.isroutine(static) and not callable(static):
        kind = "property" if isinstance(static, property) else type(static).__name__
        return f"{name!r} is a {kind}, and plans call it as {_call(member)}"
    method = getattr(device, name)
    if name not in _MAY_BE_ASYNC and inspect.iscoroutinefunction(method):
        return (
            f"{name!r} is a coroutine, which no one awaits: return a status "
            "(ophyd-async: @AsyncStatus.wrap) or a value"
        )
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):  # not written in Python
        return ""
    for call in _calls(member):
        try:
            signature.bind(*call.args, **call.kwargs)
        except TypeError:
            bare = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
            shown = inspect.Signature(bare)
            return f"it has {name}{shown}, and plans call {call}"
    if another := _takes_another(device, protocol, name):
        hint = "; AsyncDetector translates" if another == "TriggerInfo" else ""
        return f"{name!r} takes {_with_article(another)}, and plans give it a Sweep{hint}"
    return ""


def _takes_another(device: object, protocol: type, name: str) -> str:
    """Return what a method takes instead of a sweep, by its annotations; nothing if all is well."""
    wanted = inspect.signature(members(protocol)[name]).parameters
    if "sweep" not in wanted:
        return ""
    try:
        function = inspect.unwrap(getattr(device, name))
        function = getattr(function, "__func__", function)
        parameters = [each for each in inspect.signature(function).parameters if each != "self"]
        hint = typing.get_type_hints(function).get(parameters[0])
        is_another = isinstance(hint, type) and not issubclass(protocols.Sweep, hint)
    except Exception:  # annotations are for people; some cannot be read
        return ""
    return str(getattr(hint, "__name__", hint)) if is_another else ""


@dataclass(frozen=True, slots=True)
class _Call:
    """One way in which plans call a method."""

    name: str
    args: tuple[str, ...]
    kwargs: Mapping[str, str]

    def __str__(self) -> str:
        inside = [*self.args, *(f"{key}=…" for key in self.kwargs)]
        return f"{self.name}({', '.join(inside)})"


def _calls(member: Any) -> list[_Call]:
    """Return how plans call a member: with what it needs, and with all that it may be given."""
    parameters = [
        each for each in inspect.signature(member).parameters.values()
        if each.name != "self"
    ]  # fmt: skip
    calls = []
    for given in ([p for p in parameters if p.default is p.empty], parameters):
        args = tuple(p.name for p in given if p.kind is not p.KEYWORD_ONLY)
        kwargs = {p.name: p.name for p in given if p.kind is p.KEYWORD_ONLY}
        calls.append(_Call(member.__name__, args, kwargs))
    return calls


def _call(member: object) -> str:
    return str(_calls(member)[-1])


# -- misspelt names -------------------------------------------------------------------------------


def _misspelt(device: object, protocol: type, known: frozenset[str]) -> Iterator[tuple[str, bool]]:
    """Find names that look like a member which a device may have, and whether that is sure.

    The plural or the past of a word may well be meant as it is: only a method that takes what the
    member takes is taken for it then.
    """
    for name, member in members(protocol).items():
        if has(device, name, callable=not isinstance(member, property)):
            continue
        for each in _own_names(device):
            if each in known or not _is_like(each, name):
                continue
            static = inspect.getattr_static(device, each, None)
            is_method = inspect.isroutine(static)
            if is_method is isinstance(member, property):
                continue
            sure = not _is_inflected(each, name) or (is_method and _fits(device, each, member))
            text = (
                f"{_name_of(device)} has {each!r}, which no plan asks for: is {name!r} meant "
                f"({protocol.__name__})?"
            )
            yield (text, sure)


def _fits(device: object, name: str, member: object) -> bool:
    """Return whether a method could be the member: it takes the same, and the same is something."""
    call = _calls(member)[0]
    try:
        inspect.signature(getattr(device, name)).bind(*call.args, **call.kwargs)
    except (TypeError, ValueError):
        return False
    return bool(call.args)


def _is_like(word: str, name: str) -> bool:
    plain = word.lower().replace("_", "")
    wanted = name.lower().replace("_", "")
    return plain == wanted or SequenceMatcher(None, plain, wanted).ratio() >= _CLOSE


def _is_inflected(word: str, name: str) -> bool:
    longer, shorter = sorted((word, name), key=len, reverse=True)
    return longer.startswith(shorter) and longer[len(shorter) :] in _ENDINGS


def _nearest(name: str, words: Iterable[str], cutoff: float) -> str:
    close = get_close_matches(name, list(words), n=1, cutoff=cutoff)
    return close[0] if close else ""


def _known_names() -> frozenset[str]:
    """Return names that mean something already."""
    all_of = {*MAY_HAVE, *(small for each in MAY_HAVE.values() for small in each)}
    return _OTHER_VERBS | {name for protocol in all_of for name in members(protocol)}


def _own_names(device: object) -> list[str]:
    """Return the public names that the author of a device gave it."""
    names: dict[str, None] = {}
    for cls in _own_classes(device):
        names |= dict.fromkeys(vars(cls))
    names |= dict.fromkeys(getattr(device, "__dict__", ()))
    return [name for name in names if not name.startswith("_")]


def _own_classes(device: object) -> list[type]:
    theirs = ("ophyd", "ophyd_async", "bluesky", "builtins", "typing", "abc", "enum")
    return [cls for cls in type(device).__mro__ if cls.__module__.split(".")[0] not in theirs]


def _name_of(device: object) -> str:
    return str(getattr(device, "name", "") or type(device).__name__)


def _with_article(name: str) -> str:
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}"
