"""What people find at a prompt: the names, the sample, the experiment, and the log.

The profile's startup file only calls `sit_down`. Without a shell (the queueserver's worker, a
script) the same names are available, and nothing is printed or plotted.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbragg.beamline.build import build_devices
from offbragg.beamline.config import VARIABLE, Beamline, load, profile_directory
from offbragg.beamline.limits import make_paths
from offbragg.beamline.run_engine import install_suspender, make_run_engine, plan_defaults
from offbragg.beamline.run_engine import sample as mount
from offbragg.catalog.lazy import LaterCatalog
from offbragg.errors import (
    ConfigError,
    MetadataError,
    OffbraggError,
    OrientationError,
)
from offbragg.files.orientation import newest_orientation, read_orientation
from offbragg.printable import PrintableFormatter, printable
from offbragg.sample import FIELDS, Sample
from offbragg.shell.kept_metadata import KeptMetadata
from offbragg.shell.prompt import label_devices, make_interactive, show_news
from offbragg.shell.runs_table import Runs, list_runs
from offbragg.spelling import did_you_mean

if TYPE_CHECKING:
    from bluesky import RunEngine
    from bluesky.utils import MsgGenerator
    from IPython.core.interactiveshell import InteractiveShell

    from offbragg.plans.defaults import Defaults

log = logging.getLogger(__name__)


EXPERIMENT = ("proposal", "esaf", "data_session", "project", "group", "owner")


def sit_down(shell: InteractiveShell | None = None) -> dict[str, Any]:
    """Return what `open_session` returns; if it fails, print why at a prompt, in words.

    Parameters
    ----------
    shell
        The IPython shell; without one the error is raised.
    """
    try:
        return open_session(shell)
    except OffbraggError as error:
        if not hasattr(shell, "set_custom_exc"):
            raise
        print(
            f"{type(error).__name__}: {printable(str(error).strip(), lines=True)}\n"
            "This is a plain prompt, without the beamline. offbragg doctor shows more. Correct the "
            "error, then start the shell again.",
            file=sys.stderr,
        )
        return {}


def open_session(
    shell: InteractiveShell | None = None, *, config: Beamline | None = None
) -> dict[str, Any]:
    """Connect the beamline and return the names that people find at the prompt.

    Parameters
    ----------
    shell
        The IPython shell; None without one.
    config
        The configuration; by default that of the file in ``OFFBRAGG_BEAMLINE``, or the simulated
        beamline without it.

    Raises
    ------
    ConfigError
        If anything in ``beamline.toml`` cannot be used.
    DeviceError
        If records do not answer.
    """
    if not hasattr(shell, "set_custom_exc"):  # the queueserver's worker has a stand-in
        shell = None
    if config is None:
        os.environ.setdefault(VARIABLE, str(profile_directory() / "beamline.toml"))
        config = load()
    make_paths(config)
    write_log(config, to_people=shell is not None)
    devices = build_devices(config)
    RE = make_run_engine(config, devices)
    install_suspender(RE, config, devices)
    metadata = KeptMetadata(config.paths.journal / "RE.md.json", RE.md)
    RE.md = metadata  # type: ignore[assignment]  # Bluesky infers dict, and takes any mapping
    RE.subscribe(lambda name, doc: metadata.save(), "start")  # nested changes

    def with_news(plan: MsgGenerator) -> MsgGenerator:  # each plan once, before its first message
        show_news(RE.md)
        return plan

    RE.preprocessors.append(with_news)

    names = _names(RE, config, plan_defaults(config, devices))
    for name in devices.keys() & names.keys():
        raise ConfigError(
            f"devices.{name} in {config.file} has a name that the shell uses\n"
            f"Choose another name than {', '.join(sorted(names))}."
        )
    names |= devices
    label_devices(devices)
    if shell is not None:
        make_interactive(shell, RE, names["bec"], config, devices)
    return names


def _names(RE: RunEngine, config: Beamline, defaults: Defaults) -> dict[str, Any]:
    import functools

    import bluesky.plan_stubs as bps
    import bluesky.plans as bp
    import bluesky.preprocessors as bpp
    import matplotlib.pyplot as plt
    import numpy as np
    from bluesky.callbacks.best_effort import BestEffortCallback

    from offbragg import plans
    from offbragg.sweep import Sweep

    def sample(
        *what: Any, orientation: str | Path | bool | None = None, **known: Any
    ) -> Sample | None:
        """Set the crystal that is mounted: sample(name, label, formula=… …); show it without.

        Its UB is that of orientation=FILE, or of the newest orientation.json of this mount, which
        is shown; orientation=False takes none.
        """
        show_news(RE.md)
        mounted = RE.md.get("sample")
        what = tuple(each for each in what if each is not RE)
        if not what and not known and orientation is None:
            if isinstance(mounted, Mapping):
                return Sample.from_dict(mounted)
            print(f"no sample is mounted with sample(name, label): {mounted or 'none'}")
            return None
        if what or known:
            known = name_sample(what, known, mounted)
        else:
            known = dict(mounted or {})
            known.pop("UB", None)
        found, source = with_orientation(known, config.paths.experiment, orientation)
        new = mount(RE, **found)
        if source:
            print(source)
        return new

    def experiment(*what: Any, **known: Any) -> dict[str, Any]:
        """Set whose experiment it is: experiment(proposal=…, group=…); show it without."""
        show_news(RE.md)
        if len(what) == 1 and isinstance(what[0], Mapping) and not known:
            what, known = (), dict(what[0])
        if what:
            raise MetadataError(
                f"experiment does not know what {what[0]!r} is: name it, as "
                f"experiment(proposal={str(what[0])!r})\n"
                f"An experiment has {', '.join(EXPERIMENT)}."
            )
        return set_experiment(RE.md, **known)

    def runs(last: int = 20, *, series: str = "", sample: str = "") -> Runs:
        """List the newest runs: number, sample, temperature, frames stored, state, series."""
        return list_runs(config, last, series=series, sample=sample)

    @functools.wraps(plans.estimate)
    def estimate(*what: Any, **given: Any) -> plans.Estimate:
        return plans.estimate(*what, **{"defaults": defaults, **given})

    cat = LaterCatalog(lambda: config.connect_catalog(timeout=1.0))
    return {
        "RE": RE,
        "sd": next(p for p in RE.preprocessors if isinstance(p, bpp.SupplementalData)),
        "bec": BestEffortCallback(),
        "cat": cat,
        "db": cat.v1,
        "bp": bp,
        "bps": bps,
        "bpp": bpp,
        "np": np,
        "plt": plt,
        "config": config,
        "sample": sample,
        "experiment": experiment,
        "runs": runs,
        "Sweep": Sweep,
        **{name: getattr(plans, name) for name in plans.__all__},
        "estimate": estimate,
    }


def with_orientation(
    known: Mapping[str, Any], experiment: Path, orientation: str | Path | bool | None = None
) -> tuple[dict[str, Any], str]:
    """Add UB, and the lattice if it is not given, from an ``orientation.json``.

    Parameters
    ----------
    known
        The sample's fields. A UB in them is kept.
    experiment
        Root of the scan files.
    orientation
        A file; True or None for the newest one of this mount (None: if there is one); False for
        none.

    Returns
    -------
    known
        With ``UB`` and ``lattice``.
    source
        Where they are from, for people; empty if nothing was taken.

    Raises
    ------
    OrientationError
        If it cannot be used, is requested and missing, or has another cell than the sample.
    """
    fields = dict(known)
    if orientation is False or (orientation is None and fields.get("UB") is not None):
        return fields, ""
    if orientation is None or orientation is True:
        mount = Sample.from_dict(
            {key: fields.get(key) for key in ("name", "label") if key in fields}
        )
        path = newest_orientation(experiment, mount.name, mount.label)
        if path is None and orientation is None:
            return fields, ""
        if path is None:
            raise OrientationError(
                f"there is no orientation.json of {mount.name} {mount.label} in {experiment}\n"
                "Find it with: offbragg index FILE"
            )
    else:
        path = Path(orientation)
    found = read_orientation(path)
    lattice = fields.get("lattice")
    if lattice is not None:
        mounted = Sample.from_dict({"name": "x", "label": "x", "lattice": lattice})
        assert mounted.lattice is not None
        pairs = list(zip(mounted.lattice, found.lattice, strict=True))
        far = any(abs(a / b - 1.0) > 0.02 for a, b in pairs[:3])
        if far or any(abs(a - b) > 2.0 for a, b in pairs[3:]):
            raise OrientationError(
                f"{path} has the lattice {[round(x, 4) for x in found.lattice]}, but the sample "
                f"has {list(mounted.lattice)}\n"
                "Omit lattice, or pass orientation=False."
            )
    fields["UB"] = [list(row) for row in found.UB]
    if lattice is None:
        fields["lattice"] = list(found.lattice)
    share = found.residuals.get("fraction")
    indexed = "" if share is None else f", {share:.0%} of the peaks indexed"
    return fields, f"UB from {path} (found {found.source.get('when', '?')}{indexed})"


def name_sample(what: tuple[Any, ...], known: Mapping[str, Any], mounted: object) -> dict[str, Any]:
    """Return a sample's fields, of which name and label may have been given by position.

    Parameters
    ----------
    what
        A name, or name and label, or a `Sample`, or a mapping with its fields.
    known
        Fields given by name.
    mounted
        The present sample, for the message.

    Raises
    ------
    MetadataError
        If a field is unknown, given twice or missing; the sample is unchanged.
    """
    still = "no sample is mounted"
    if isinstance(mounted, Mapping):
        still = f"the sample is still {mounted.get('name')} {mounted.get('label', '')}".rstrip()
    positional: dict[str, Any] = {}
    if what and isinstance(what[0], (Sample, Mapping)):
        positional = what[0].to_dict() if isinstance(what[0], Sample) else dict(what[0])
        more = what[1:]
    else:
        positional.update(zip(FIELDS[:2], what, strict=False))
        more = what[2:]
    if more:
        raise MetadataError(
            f"sample does not know what {more[0]!r} is: name it, as formula={str(more[0])!r}\n"
            f"A sample has {', '.join(FIELDS)}; {still}."
        )
    for key in positional.keys() & known.keys():
        raise MetadataError(
            f"sample.{key} is given twice, {positional[key]!r} and {known[key]!r}; {still}"
        )
    fields = {**positional, **known}
    for key in fields:
        if key not in FIELDS:
            raise MetadataError(
                f"sample.{key} is unknown{did_you_mean(key, (*FIELDS, 'orientation'))}; {still}\n"
                f"A sample has {', '.join(FIELDS)}."
            )
    for key, meaning in (("name", "the material"), ("label", "the crystal or mount")):
        if key not in fields:
            shown = [f"{k}={fields.get(k, '…')!r}" for k in ("name", "label")]
            raise MetadataError(
                f"sample.{key} is missing: it names a folder, and is {meaning}; {still}\n"
                f"Type: sample({', '.join(shown)})"
            )
    return fields


def set_experiment(md: MutableMapping[str, Any], /, **known: Any) -> dict[str, Any]:
    """Set whose experiment it is; every run from now on has it in its start document.

    Parameters
    ----------
    md
        ``RE.md``.
    known
        Any of proposal, esaf, data_session, project, group, owner; None removes one.

    Returns
    -------
    experiment
        All fields that are set now.

    Raises
    ------
    MetadataError
        If a field is wrong; it is named, and nothing is changed.
    """
    for key, value in known.items():
        if key not in EXPERIMENT:
            raise MetadataError(
                f"{key} is unknown{did_you_mean(key, EXPERIMENT)}: an experiment has "
                f"{', '.join(EXPERIMENT)}"
            )
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not whole and (not isinstance(value, str) or not value.strip()):
            raise MetadataError(f"{key} is {value!r}: it must be text or a whole number")
    for key, value in known.items():
        if value is None:
            md.pop(key, None)
        else:
            md[key] = str(value)
    return {key: md[key] for key in EXPERIMENT if key in md}


def write_log(config: Beamline, *, to_people: bool = False) -> None:
    """Write the log to ``<paths.log>/offbragg.log``, in rotating files.

    Parameters
    ----------
    config
        The beamline.
    to_people
        Show warnings at the terminal, too.
    """
    path = config.paths.log / "offbragg.log"
    ours = logging.getLogger("offbragg")
    if any(getattr(handler, "baseFilename", "") == str(path) for handler in ours.handlers):
        return
    file = logging.handlers.RotatingFileHandler(
        path, maxBytes=10_000_000, backupCount=5, encoding="utf-8", delay=True
    )
    file.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name in ("offbragg", "bluesky", "ophyd"):
        logger = logging.getLogger(name)
        logger.addHandler(file)
        logger.setLevel(logging.INFO)
        # the shell shows exceptions itself; once is enough
        logger.propagate = not to_people
    if to_people:
        terminal = logging.StreamHandler(sys.stderr)
        terminal.setLevel(logging.WARNING)
        terminal.setFormatter(PrintableFormatter("%(levelname)s %(message)s"))
        ours.addHandler(terminal)
        notices = logging.StreamHandler(sys.stderr)  # for people, but not warnings
        notices.setFormatter(PrintableFormatter("%(message)s"))
        logging.getLogger("offbragg.notices").addHandler(notices)
