"""What the queueserver should know of a plan's parameters that their types do not tell it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

MAPPING = "collections.abc.Mapping[str, typing.Any]"
OPTIONAL_MAPPING = f"typing.Optional[{MAPPING}]"
SWEEPS = f"typing.Union[{MAPPING}, collections.abc.Sequence[{MAPPING}], None]"
# what comes first may be left out: then something else stands in its place
DEVICE_OR_SWEEP = f"typing.Union[__FLYABLE__, {MAPPING}, None]"
DEVICE_OR_KELVIN = "typing.Union[__FLYABLE__, collections.abc.Sequence[float], None]"
DEVICE_OR_SWEEPS = (
    f"typing.Union[__FLYABLE__, {MAPPING}, collections.abc.Sequence[{MAPPING}], None]"
)

Plan = TypeVar("Plan", bound=Callable[..., Any])


def from_json(**types: str) -> Callable[[Plan], Plan]:
    """Return as which type a parameter comes from a queue; names in it stay names.

    Without it the queueserver would take the "phi" in a sweep's ``axis`` for the device.

    Parameters
    ----------
    types
        Parameter → type, as text that the queueserver evaluates with ``typing`` and
        ``collections``.
    """

    def mark(plan: Plan) -> Plan:
        # what bluesky_queueserver's own decorator sets, without depending on it
        plan.__dict__["_custom_parameter_annotation_"] = {
            "parameters": {name: {"annotation": text} for name, text in types.items()}
        }
        return plan

    return mark
