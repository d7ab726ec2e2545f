"""What a session keeps, refuses and says, without a beamline."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bluesky.preprocessors import SupplementalData
from runs import MeasuredRun, wait_until

from offbragg.catalog.lazy import LaterCatalog
from offbragg.errors import CatalogError, ConfigError, JournalError, MetadataError, ScanFileError
from offbragg.files.journal_folder import find_run
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from offbragg.plans.defaults import Defaults
from offbragg.shell.describe_ledger import describe_ledger
from offbragg.shell.prompt import Latest, prompt_text
from offbragg.shell.session import KeptMetadata, _names, set_experiment, sit_down

BEAMLINE = {"beamline_id": "simulated", "versions": {"offbragg": "1"}, "owner": "beamline staff"}


def test_what_was_set_is_there_after_a_restart(tmp_path):
    md = KeptMetadata(tmp_path / "RE.md.json", BEAMLINE)
    md["sample"] = {"name": "LSMO-140", "label": "c1"}
    md["attenuation"] = np.float64(10.0)

    again = KeptMetadata(tmp_path / "RE.md.json", BEAMLINE)

    assert again["sample"] == {"name": "LSMO-140", "label": "c1"}
    assert again["attenuation"] == 10.0
    assert again["owner"] == "beamline staff"


def test_the_file_holds_what_people_set_and_nothing_else(tmp_path):
    md = KeptMetadata(tmp_path / "RE.md.json", BEAMLINE)
    md["scan_id"] = 7
    assert not md.path.exists()
    md["group"] = "Streuung für alle"
    del md["scan_id"]

    assert json.loads(md.path.read_text()) == {"group": "Streuung für alle"}
    assert "für" in md.path.read_text()


def test_what_was_set_overrides_the_beamlines_own_until_it_is_removed(tmp_path):
    md = KeptMetadata(tmp_path / "RE.md.json", BEAMLINE)
    md["owner"] = "me"
    assert KeptMetadata(tmp_path / "RE.md.json", BEAMLINE)["owner"] == "me"

    md["owner"] = BEAMLINE["owner"]

    new = {**BEAMLINE, "owner": "new staff"}
    assert KeptMetadata(tmp_path / "RE.md.json", new)["owner"] == "new staff"


def test_a_change_deep_inside_is_kept_when_a_run_begins(tmp_path):
    md = KeptMetadata(tmp_path / "RE.md.json", BEAMLINE)
    md["sample"] = {"name": "LSMO-140", "label": "c1"}
    md["sample"]["label"] = "c2"

    md.save()

    assert KeptMetadata(tmp_path / "RE.md.json", {})["sample"]["label"] == "c2"


def test_what_no_document_can_hold_is_refused_at_once(tmp_path):
    md = KeptMetadata(tmp_path / "RE.md.json", BEAMLINE)

    with pytest.raises(MetadataError, match=r"RE\.md\['camera'\] cannot be written"):
        md["camera"] = object()

    assert "camera" not in md


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1'])
def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path, text):
    path = tmp_path / "RE.md.json"
    path.write_text(text)

    with pytest.raises(ConfigError, match=r"RE\.md cannot be restored") as caught:
        KeptMetadata(path, BEAMLINE)

    assert str(path) in str(caught.value)
    assert path.read_text() == text


def test_two_prompts_keep_what_each_of_them_sets(tmp_path):
    first = KeptMetadata(tmp_path / "RE.md.json", BEAMLINE)
    second = KeptMetadata(tmp_path / "RE.md.json", BEAMLINE)

    first["sample"] = {"name": "KMnF3", "label": "c1"}
    second["group"] = "diffuse"
    first["proposal"] = "2026-1"
    second["group"] = "other"
    del first["proposal"]

    assert json.loads(first.path.read_text()) == {
        "sample": {"name": "KMnF3", "label": "c1"},
        "group": "other",
    }
    assert first.refresh() == {"group": "other"}
    assert second.refresh()["sample"] == {"name": "KMnF3", "label": "c1"}
    assert dict(first) == dict(second)
    assert first.refresh() == second.refresh() == {}
    assert f"pid {os.getpid()}" in first.changed_by()


def test_what_another_prompt_removes_is_removed_or_the_beamlines_own_again(tmp_path):
    first = KeptMetadata(tmp_path / "RE.md.json", BEAMLINE)
    first.update(owner="me", group="diffuse")
    second = KeptMetadata(tmp_path / "RE.md.json", BEAMLINE)

    second["owner"] = BEAMLINE["owner"]
    del second["group"]

    assert first.refresh() == {"owner": BEAMLINE["owner"], "group": None}
    assert first["owner"] == BEAMLINE["owner"]
    assert "group" not in first


def test_many_prompts_at_once_lose_nothing(tmp_path):
    def set_many(who):
        md = KeptMetadata(tmp_path / "RE.md.json", BEAMLINE)
        for n in range(20):
            md[f"{who}-{n}"] = n

    threads = [threading.Thread(target=set_many, args=(who,)) for who in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(json.loads((tmp_path / "RE.md.json").read_text())) == 80


def test_a_file_that_was_damaged_meanwhile_is_neither_read_nor_overwritten(tmp_path, caplog):
    md = KeptMetadata(tmp_path / "RE.md.json", BEAMLINE)
    md["group"] = "diffuse"
    md.path.write_text("{")

    assert md.refresh() == {}
    assert "RE.md cannot be compared" in caplog.text
    with pytest.raises(ConfigError, match=r"RE\.md cannot be restored"):
        md["group"] = "other"

    assert md.path.read_text() == "{"


@pytest.fixture
def typed(tmp_path):
    """Return sample and experiment as they are at the prompt, and RE.md."""
    RE = SimpleNamespace(md={}, preprocessors=[SupplementalData()])
    names = _names(RE, SimpleNamespace(paths=SimpleNamespace(experiment=tmp_path)), Defaults())
    return SimpleNamespace(RE=RE, md=RE.md, **{k: names[k] for k in ("sample", "experiment")})


def test_a_sample_is_named_by_position_by_name_and_as_a_whole(typed):
    whole = {"name": "KMnF3", "label": "c1", "formula": ""}

    typed.sample("KMnF3", "c1")
    assert typed.md["sample"] == whole
    typed.sample("LSMO", label="c1", formula="LSMO")
    typed.sample(whole)
    assert typed.md["sample"] == whole
    mounted = typed.sample()
    typed.sample("LSMO", "c1")
    typed.sample(mounted)
    assert typed.md["sample"] == whole
    typed.sample(
        typed.RE, name="LSMO", label="c2"
    )  # as offbragg.beamline.run_engine.sample takes it
    assert typed.md["sample"]["label"] == "c2"


@pytest.mark.parametrize(
    ("what", "known", "text"),
    [
        (("LSMO",), {}, r"sample\.label is missing.*still KMnF3 c1\n.*sample\(name='LSMO', label"),
        ((), {"label": "c2"}, r"sample\.name is missing.*still KMnF3 c1"),
        (("LSMO", "c2", "Mn"), {}, r"does not know what 'Mn' is: name it"),
        (("LSMO",), {"name": "x", "label": "c"}, r"sample\.name is given twice, 'LSMO' and 'x'"),
        (("LSMO",), {"lable": "c2"}, r"sample\.lable is unknown \(did you mean 'label'\?\)"),
        ((), {"foo": 1}, r"sample\.foo is unknown; the sample is still KMnF3 c1"),
        (("LSMO", "c2"), {"orientatoin": False}, r"did you mean 'orientation'"),
        (({"nam": "LSMO"},), {}, r"sample\.nam is unknown \(did you mean 'name'\?\)"),
        (("../x", "c2"), {}, r"sample\.name is '\.\./x'"),
        ((7, "c2"), {}, r"sample\.name is 7"),
    ],
)
def test_a_sample_that_is_not_understood_is_refused_by_name_and_nothing_changes(
    typed, what, known, text
):
    typed.sample("KMnF3", "c1")
    before = dict(typed.md["sample"])

    with pytest.raises(MetadataError, match=text):
        typed.sample(*what, **known)

    assert typed.md["sample"] == before


def test_an_experiment_is_not_guessed(typed):
    with pytest.raises(MetadataError, match=r"experiment\(proposal='2026-1'\)"):
        typed.experiment("2026-1")
    with pytest.raises(MetadataError, match=r"propsal is unknown \(did you mean 'proposal'\?\)"):
        typed.experiment(propsal="1")
    assert typed.experiment({"proposal": "2026-1"}) == {"proposal": "2026-1"}


def test_an_experiment_is_set_shown_and_removed():
    md = {"sample": {}}

    assert set_experiment(md, proposal=12345, group="diffuse") == {
        "proposal": "12345",
        "group": "diffuse",
    }
    assert set_experiment(md, group=None) == {"proposal": "12345"}
    assert set_experiment(md) == {"proposal": "12345"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"propsal": "1"}, "propsal"), ({"group": ""}, "group"), ({"esaf": True}, "esaf")],
)
def test_a_wrong_experiment_changes_nothing(fields, named):
    md = {}

    with pytest.raises(MetadataError, match=named):
        set_experiment(md, proposal="1", **fields)

    assert md == {}


class MonitoredSignal(SimpleNamespace):
    def subscribe(self, callback):
        self.report = callback

    def get(self):
        raise AssertionError("the prompt must not wait for a record")


def test_the_prompt_shows_the_last_monitored_temperature_and_never_asks():
    signal = MonitoredSignal(connected=True)
    reading = Latest(signal, "K")
    assert str(reading) == "? K"

    signal.report(value=299.96)
    assert prompt_text({"sample": {"name": "LSMO-140"}}, reading, 42) == (
        "[LSMO-140 · 300.0 K · #42]"
    )

    signal.connected = False
    assert str(reading) == "? K"


def test_a_catalog_that_is_away_is_no_reason_not_to_begin():
    class Away:
        def connect_catalog(self, *, timeout):
            if not here:
                raise CatalogError("the catalog did not answer")
            return {"uid": "a run"}

    here = []
    cat = LaterCatalog(lambda: Away().connect_catalog(timeout=1.0))
    assert "did not answer" in repr(cat)
    with pytest.raises(CatalogError):
        cat["uid"]
    with pytest.raises(CatalogError):
        cat.search  # noqa: B018
    assert not hasattr(cat, "anything")

    here.append(True)

    assert not hasattr(cat, "read")  # a catalog is not a device
    assert cat["uid"] == "a run"
    assert list(cat) == ["uid"]


def config_of(run: MeasuredRun) -> SimpleNamespace:
    return SimpleNamespace(
        file=run.root / "beamline.toml",
        paths=SimpleNamespace(journal=run.journal_directory, experiment=run.experiment),
    )


def measured(run: MeasuredRun, *lost: int) -> MeasuredRun:
    run.begin()
    run.write(*(n for n in range(run.n_frames) if n not in lost))
    run.announce(run.n_frames)
    run.end()
    failed = follow(run.journal_directory, [Stacker(run.experiment, late=run.late)], once=True)
    assert not any(failed.values())
    return run


def test_the_ledger_says_what_became_of_every_frame(run: MeasuredRun):
    measured(run, 3)

    text = describe_ledger(config_of(run))

    assert "LSMO-140 · 120 K · phi 0 → 5° · 10 frames" in text
    assert "9 stored, 1 missing · " in text
    assert str(next(Path(run.experiment).rglob("f1.h5"))) in text
    assert "frame 3 missing: x_00003.cbf was not there" in text
    assert describe_ledger(config_of(run), "#1") == text
    assert describe_ledger(config_of(run), run.uid[:8]) == text


def test_frames_that_were_lost_for_one_reason_are_one_line(tmp_path):
    run = measured(MeasuredRun(tmp_path, n_frames=40), *range(1, 30), 33, 35)

    lines = describe_ledger(config_of(run)).splitlines()

    assert len(lines) == 3
    assert lines[2].startswith("31 frames missing, 1–29, 33, 35: x_00001.cbf was not there")
    run.journal.close()


def _described(run: MeasuredRun) -> str:
    try:
        return describe_ledger(config_of(run))
    except ScanFileError:
        return ""


@pytest.mark.parametrize("begun", [True, False])
def test_a_stacker_that_is_behind_is_shown_and_no_frame_is_missing(
    run: MeasuredRun, monkeypatch, begun
):
    run.begin()
    run.write(0, 1, 2)
    run.announce(3)
    if begun:
        stop = threading.Event()
        thread = threading.Thread(
            target=follow,
            args=(run.journal_directory, [Stacker(run.experiment, late=run.late)]),
            kwargs={"stop": stop},
        )
        thread.start()
        try:
            wait_until(lambda: "3 stored" in _described(run), 30, "3 frames stored")
        finally:
            stop.set()
            thread.join(30)
    run.write(3, 4, 5, 6)
    run.announce(7)
    monkeypatch.setattr("offbragg.shell.describe_ledger.is_followed", lambda journal: True)

    text = describe_ledger(config_of(run))

    if begun:
        assert "3 stored, 3 not recorded, the stacker is behind: 4 recorded frames not" in text
    else:
        assert "no scan file yet: the stacker is behind: 7 recorded frames not stacked yet" in text
    assert "missing" not in text
    monkeypatch.undo()
    if begun:
        assert "no stacker is running (offbragg stack --beamline" in describe_ledger(config_of(run))


def test_a_run_that_was_not_stacked_says_what_to_do(run: MeasuredRun):
    run.begin()

    with pytest.raises(ScanFileError, match="offbragg stack"):
        describe_ledger(config_of(run))


@pytest.mark.parametrize("which", ["-2", "#7", "77777777", "zzzz", ""])
def test_a_run_that_there_is_not_is_refused_with_how_to_name_one(run: MeasuredRun, which):
    run.begin()

    with pytest.raises(JournalError, match=str(run.journal_directory)):
        find_run(run.journal_directory, which)


def test_a_beamline_that_cannot_be_opened_is_explained_at_a_prompt_and_raised_elsewhere(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("OFFBRAGG_BEAMLINE", str(tmp_path / "nowhere.toml"))

    assert sit_down(SimpleNamespace(set_custom_exc=None)) == {}
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        sit_down(None)

    text = capsys.readouterr().err
    assert text.startswith(f"ConfigError: {tmp_path / 'nowhere.toml'} cannot be read")
    assert "start the shell again" in text
