"""The file of people: who may log in, which proposals there are, and who belongs to them.

It is written by hand, or by a facility's own program; the server reads it again whenever it has
changed. A file that cannot be read, or is wrong, lets nobody in and shows nobody anything.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat as modes
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from offbragg.catalog.passwords import is_hash
from offbragg.catalog.viewers import EVERYTHING, Viewer
from offbragg.errors import ConfigError
from offbragg.printable import printable

LARGEST = 4_000_000  # bytes of the file
PROPOSAL = 100  # characters; the searched table keeps the first 200
_OTHERS = modes.S_IWGRP | modes.S_IRWXO

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,59}$")]
Proposal = Annotated[str, Field(min_length=1, max_length=PROPOSAL)]
Member = Annotated[str, Field(pattern=r"^@?[A-Za-z0-9][A-Za-z0-9._@+-]{0,59}$")]
Role = Literal["user", "staff", "operator"]

_log = logging.getLogger(__name__)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Person(_Table):
    """One person."""

    password: str = Field(default="", description="hash that offbragg people --hash prints")
    oidc: str = Field(default="", max_length=200, description="what the provider calls them")
    role: Role = Field(
        default="user",
        description="user: the runs of their proposals; staff: all runs; operator: no runs, only "
        "whether the services work",
    )

    logins: str = Field(
        default="",
        max_length=60,
        description="any text, such as the date; whenever it is changed, all their logins end",
    )

    @field_validator("password")
    @classmethod
    def _hashed(cls, value: str) -> str:
        if value and not is_hash(value):
            raise ValueError("must be a hash that offbragg people --hash prints")
        return value


class ProposalMembers(_Table):
    """Who belongs to one proposal."""

    members: list[Member] = Field(
        default_factory=list, description="names of people, and of groups with @ before them"
    )
    scientists: list[Member] = Field(
        default_factory=list, description="members who may annotate while it is measured"
    )


class Provider(_Table):
    """The OpenID Connect provider with which people log in."""

    discovery: str = Field(
        pattern=r"^https?://\S+$",
        description="its address that ends in /.well-known/openid-configuration",
    )
    client_id: str = Field(min_length=1)
    client_secret_file: str = Field(
        min_length=1, description="file that only the owner reads; relative to this one"
    )
    address: str = Field(
        pattern=r"^https?://[^\s/]+$",
        description="of the catalog, as browsers see it: people come back to /login/oidc/return",
    )
    claim: str = Field(default="sub", description="which claim is a person's oidc")


class People(_Table):
    """Everything that the file says."""

    people: dict[Name, Person] = Field(default_factory=dict)
    groups: dict[Name, list[Name]] = Field(default_factory=dict)
    proposals: dict[Proposal, ProposalMembers] = Field(default_factory=dict)
    oidc: Provider | None = None
    _viewers: dict[str, Viewer] = PrivateAttr(default_factory=dict)

    def viewer(self, name: str) -> Viewer | None:
        """Return what a person sees; None if there is no such person."""
        if name not in self.people:
            return None
        if name not in self._viewers:  # each request asks
            self._viewers[name] = self._found(name, self.people[name])
        return self._viewers[name]

    def _found(self, name: str, person: Person) -> Viewer:
        if person.role == "staff":
            return Viewer(name, EVERYTHING, EVERYTHING, host=True)
        if person.role == "operator":
            return Viewer(name, frozenset(), frozenset(), host=True)
        annotates = frozenset(
            proposal
            for proposal, of in self.proposals.items()
            if name in self._named(of.scientists)
        )
        belongs = frozenset(
            proposal for proposal, of in self.proposals.items() if name in self._named(of.members)
        )
        return Viewer(name, belongs | annotates, annotates)

    def by_oidc(self, subject: str) -> str | None:
        """Return the name of the person whom the provider calls so."""
        found = [name for name, person in self.people.items() if person.oidc == subject]
        return found[0] if subject and len(found) == 1 else None

    def fingerprint(self, name: str) -> str:
        """Return what changes when all logins of a person are to end."""
        person = self.people[name]
        text = f"{name}\0{person.password}\0{person.oidc}\0{person.role}"
        text += f"\0{person.logins}" if person.logins else ""  # as it was before there was this
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _named(self, members: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for member in members:
            found.update(self.groups[member[1:]] if member.startswith("@") else (member,))
        return found

    def unknown(self) -> list[str]:
        """Return what is named and does not exist, in words."""
        wrong = [
            f"groups.{group} names {name}, who is not one of people"
            for group, names in self.groups.items()
            for name in names
            if name not in self.people
        ]
        for proposal, of in self.proposals.items():
            for member in (*of.members, *of.scientists):
                there = self.groups if member.startswith("@") else self.people
                if member.removeprefix("@") not in there:
                    what = "groups" if member.startswith("@") else "people"
                    wrong.append(f"proposals.{proposal} names {member}, not one of {what}")
        subjects = [person.oidc for person in self.people.values() if person.oidc]
        wrong += [
            f"oidc = {printable(one)!r} is that of several people"
            for one in sorted({each for each in subjects if subjects.count(each) > 1})
        ]
        return wrong


def read_people(path: Path) -> People:
    """Read a file of people.

    Raises
    ------
    ConfigError
        If it cannot be read, others may write or read it, or it is wrong: what, and where.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"the file of people cannot be read: {error.strerror}\n{path}") from error
    if mode & _OTHERS:
        raise ConfigError(
            f"others may read or write the file of people (mode {modes.S_IMODE(mode):04o})\n"
            f"{path}\nIt decides who sees what, and holds hashes of passwords: chmod 600, or 640"
        )
    if len(content) > LARGEST:
        raise ConfigError(f"the file of people has more than {LARGEST:,} bytes\n{path}")
    try:
        people = People.model_validate(tomllib.loads(content.decode()))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"the file of people is not valid TOML: {error}\n{path}") from error
    except ValidationError as error:
        wrong = "\n".join(_in_words(each) for each in error.errors()[:20])
        raise ConfigError(f"{wrong}\nin the file of people {path}") from None
    if unknown := people.unknown():
        raise ConfigError("\n".join([*unknown[:20], f"in the file of people {path}"]))
    return people


def _in_words(item: Mapping[str, Any]) -> str:
    where = printable(".".join(str(part) for part in item["loc"]))
    return f"{where}: {item['msg']}"  # without its value, which may be a password


@dataclass
class PeopleFile:
    """The people of a catalog, read again whenever the file has changed.

    Parameters
    ----------
    path
        Of the file.
    """

    path: Path
    _state: tuple[int, ...] = ()
    _people: People | None = field(default=None, repr=False)

    def now(self) -> People | None:
        """Return the people as the file is now; None if it cannot be used: nobody is let in."""
        try:
            found = self.path.stat()
            state = (
                found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns,
            )  # fmt: skip
        except OSError:
            state = ()
        if not state or state != self._state:
            try:
                self._people = read_people(self.path)
            except ConfigError as error:
                if state != self._state or self._people is not None:
                    _log.error("nobody is let in: %s", printable(str(error)))
                self._people = None
            self._state = state
        return self._people
