"""A person logs in on the page, sees what their proposals have, and leaves a note on a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from web.beamline import N, ShownBeamline
from web.browser import violations

from offbragg import login
from offbragg.catalog.passwords import hash_password
from offbragg.errors import NoSuchEntry
from offbragg.remote.run import Run

PASSWORD = "long enough to be one"
PEOPLE = """
[people.ada]
password = "{hash}"
[people.bob]
password = "{hash}"
[proposals."2026-A"]
scientists = ["ada"]
[proposals."2026-B"]
members = ["bob"]
"""


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShownBeamline]:
    """A catalog with two people; what was measured is of the proposal of one of them."""
    beamline = ShownBeamline.create(tmp_path_factory.mktemp("owned"))
    people = beamline.root / "people.toml"
    people.write_text(PEOPLE.format(hash=hash_password(PASSWORD)))
    people.chmod(0o600)
    file = beamline.root / "beamline.toml"
    file.write_text(file.read_text().replace("[catalog]\n", f'[catalog]\npeople = "{people}"\n'))
    beamline.begin()
    run = beamline.run(temperature=90.0, proposal="2026-A")
    run.take(*range(N))
    run.finish()
    beamline.wait()
    beamline.publish(beamline.runs)
    yield beamline
    beamline.close()


def log_in(page, name: str, password: str = PASSWORD) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password, or key").fill(password)
    page.get_by_role("button", name="Open").click()


def test_a_person_logs_in_and_annotates_a_run(owned, open_page, screenshot):
    page = open_page(owned, key=False)
    page.watched.expect("401", "403")  # the console shows what was refused
    uid = owned.runs[0].uid
    page.goto(f"/live#/runs/{uid}")
    page.get_by_role("heading", name="Log in").wait_for()
    screenshot(page, "login")
    assert violations(page) == []
    log_in(page, "ada", "not the password")
    page.get_by_role("alert").filter(has_text="password").wait_for()
    log_in(page, "ada")

    panel = page.get_by_role("complementary", name="Run")
    panel.get_by_label("A note on this run").fill("looks twinned\n<b>above</b> 200 K")
    panel.get_by_role("button", name="Add the note").click()
    panel.get_by_text("<b>above</b> 200 K").wait_for()  # as text
    screenshot(page, "notes")
    assert violations(page) == []
    (note,) = login(owned.url, "ada", PASSWORD).runs[uid].notes
    assert (note["by"], note["text"]) == ("ada", "looks twinned\n<b>above</b> 200 K")


def test_who_is_of_another_proposal_sees_nothing_of_it(owned, open_page):
    page = open_page(owned, key=False)
    page.watched.expect("401", "404")
    page.goto(f"/live#/runs/{owned.runs[0].uid}")
    page.get_by_role("heading", name="Log in").wait_for()
    log_in(page, "bob")

    page.get_by_text("This run is not here").wait_for()


def test_notes_from_python(owned):
    ada = login(owned.url, "ada", PASSWORD)
    before = ada.latest().notes

    note = ada.latest().annotate("the beam was lost at frame 3")

    assert note["text"] == "the beam was lost at frame 3"
    assert ada.latest().notes == [*before, {key: note[key] for key in ("time", "by", "text")}]
    other = Run(login(owned.url, "bob", PASSWORD).link, {"uid": ada.latest().uid})
    with pytest.raises(NoSuchEntry, match=r"POST .*notes: 404"):
        other.annotate("not mine")
