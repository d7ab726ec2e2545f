"""What `offbragg doctor` finds: one thing that was checked, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SKEW_WARNING, SKEW_FAILURE = 0.1, 1.0  # s; per-frame values are joined by time


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked."""

    check: str
    level: str
    """ok, warning (one can measure) or failure."""
    what: str
    advice: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.level.upper() if self.level != 'ok' else 'ok':8} {self.check}: {self.what}"
        ]
        lines += [f"         {line}" for line in self.advice.splitlines()]
        return "\n".join(lines)


def trouble(check: str, error: BaseException, *, level: str = "failure") -> Finding:
    """Make a finding of an error: its first line, and the rest as advice."""
    first, _, rest = str(error).strip().partition("\n")
    return Finding(check, level, first or type(error).__name__, rest)


def judge_clock(check: str, text: str, skew: float) -> Finding:
    """Judge a clock by how far it is ahead of this host's, s."""
    facts = {"clock_skew": skew}
    if abs(skew) <= SKEW_WARNING:
        return Finding(check, "ok", text, facts=facts)
    side = "ahead of" if skew > 0 else "behind"
    return Finding(
        check, "failure" if abs(skew) > SKEW_FAILURE else "warning",
        f"{text}, and the IOC's clock is {abs(skew):.2f} s {side} this host's",
        "Values are joined to frames by time: synchronise both with one time server (NTP).", facts,
    )  # fmt: skip
