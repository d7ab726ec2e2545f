"""Find what a mistyped word was meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return " (did you mean 'label'?)" for a word that is close to a known one, else "".

    Parameters
    ----------
    word
        What was typed.
    known
        What could have been typed.

    Examples
    --------
    >>> did_you_mean("lable", ["name", "label"])
    " (did you mean 'label'?)"
    >>> did_you_mean("x", ["name", "label"])
    ''
    """
    words = {each.lower(): each for each in known}
    close = get_close_matches(str(word).lower(), words, n=1, cutoff=0.6)
    return f" (did you mean {words[close[0]]!r}?)" if close else ""
