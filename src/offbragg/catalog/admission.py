"""What a key permits, and whose it is: who asks with it, and what they see."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from offbragg.catalog.authentication import Right, ending_of, right_of, why_refused
from offbragg.catalog.named_keys import NamedKey, NamedKeys
from offbragg.catalog.people import People, PeopleFile
from offbragg.catalog.sessions import read_session
from offbragg.catalog.viewers import EVERYTHING, NOBODY, SERVER, Proposals, Viewer

_NAMELESS = (
    "This key does not say whose it is, and the catalog shows each person what is theirs. Log in, "
    "or ask for a key of your own: offbragg token LABEL --person NAME creates it."
)


@dataclass(frozen=True, slots=True)
class Admission:
    """What a key permits.

    Parameters
    ----------
    right
        Whether it reads, or does everything.
    viewer
        Who asks with it.
    why
        Why it permits nothing.
    ends
        When it expires, POSIX s; None: never.
    """

    right: Right
    viewer: Viewer = NOBODY
    why: str = ""
    ends: float | None = None


class Admissions:
    """Finds what a key permits, each time as keys and people are then.

    Parameters
    ----------
    key
        The catalog's key.
    named
        Its named keys.
    people
        Its people; None: whoever has a key for reading sees everything.
    """

    def __init__(
        self, key: str, named: NamedKeys | None = None, people: PeopleFile | None = None
    ) -> None:
        self.key, self.named, self.people = key, named, people

    def of(self, given: str) -> Admission:
        """Return what a key permits that a client has sent."""
        now = time.time()
        people = None if self.people is None else self.people.now()
        if people is not None and (session := read_session(given, self.key, people)) is not None:
            name, ends = session
            if now >= ends:
                return Admission("ended", why="Your login has expired: log in again.")
            return Admission("reading", people.viewer(name) or NOBODY, ends=ends)
        right = right_of(given, self.key, now=now, named=self.named)
        if right in ("ended", "none"):
            return Admission(right, why=why_refused(given, right, self.named))
        found = None if self.named is None else self.named.find(given)
        if found is None and right == "everything":
            return Admission(right, SERVER)
        ends = float(ending_of(given, self.named))
        if found is not None:
            viewer = self._viewer(found.key, people)
        else:
            viewer = None if self.people else Viewer("a key for reading", EVERYTHING, host=True)
        if viewer is None:
            return Admission("none", why=_NAMELESS)
        return Admission(right, viewer, ends=ends)

    def _viewer(self, key: NamedKey, people: People | None) -> Viewer | None:
        """Return who asks with a named key; None if nobody does."""
        if key.scope == "staff":
            return Viewer(key.label, EVERYTHING, EVERYTHING, host=True)
        if key.scope == "operator":
            return Viewer(key.label, frozenset(), host=True)
        if key.scope == "beamline" or not (key.person or key.proposals or self.people):
            return Viewer(key.label, EVERYTHING, host=True)
        if key.person:
            person = None if people is None else people.viewer(key.person)
            if person is None:
                return None
            sees = _of(person.sees, key.proposals)
            annotates = _of(person.annotates, key.proposals)
            host = person.host and not key.proposals
            name = key.person
        elif key.proposals and not (self.people and people is None):  # the file can be used
            sees = annotates = _of(EVERYTHING, key.proposals)
            name, host = key.label, False
        else:
            return None
        return Viewer(name, sees, annotates if key.scope == "annotate" else frozenset(), host)


def _of(known: Proposals, proposals: Sequence[str]) -> Proposals:
    """Return those of the known ones that a key names; a key that names none has all."""
    if not proposals:
        return known
    return frozenset(proposals) if known == EVERYTHING else frozenset(proposals) & known
