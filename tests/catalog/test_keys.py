"""A key that names nothing is a KeyError for programs, and words for people."""

from __future__ import annotations

import pytest

from offbragg.errors import CatalogError, NoSuchEntry


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("nothing", r"the catalog has no run 'nothing'; the newest are #"),
        ("no", r"the catalog has no run 'no': Partial uid 'no' is too short"),
        (987654, r"the catalog has no run 987654; the newest are #"),
    ],
)
def test_a_run_that_is_not_there_is_refused_with_those_that_are(cat, whole, key, words):
    with pytest.raises(KeyError, match=words) as caught:
        cat[key]

    assert isinstance(caught.value, CatalogError)  # so a prompt shows the words alone
    assert "\\n" not in str(caught.value)
    assert key not in cat
    assert cat.get(key, "none") == "none"


def test_a_mistyped_uid_stream_or_column_is_refused_with_the_nearest(cat, whole):
    uid = whole.start["uid"]
    mistyped = uid[:6] + ("0" if uid[6] != "0" else "1") + uid[7]

    with pytest.raises(NoSuchEntry) as run:
        cat[mistyped]
    with pytest.raises(NoSuchEntry) as stream:
        cat[uid]["primry"]
    with pytest.raises(NoSuchEntry) as column:
        cat[uid]["primary"]["angel"]
    with pytest.raises(KeyError):
        cat[uid, "primry"]

    assert f"(did you mean '{uid[:8]}'?)" in str(run.value)
    assert f"run {uid[:8]} has no 'primry' (did you mean 'primary'?); it has " in str(stream.value)
    assert "the stream primary has no 'angel' (did you mean 'angle'?)" in str(column.value)
    assert "primary" in cat[uid]
    assert "primry" not in cat[uid]


def test_databrokers_face_says_the_same(cat, whole):
    with pytest.raises(KeyError, match="has no run 'nothing'"):
        cat.v1["nothing"]


def test_a_notebook_shows_the_words_without_a_traceback(cat, whole):
    try:
        cat["nothing"]
    except NoSuchEntry as error:
        shown = error._render_traceback_()
        chain = error.__cause__, error.__suppress_context__

    assert [line.partition(";")[0] for line in shown] == [
        "NoSuchEntry: the catalog has no run 'nothing'"
    ]
    assert chain == (None, True)


def test_a_catalog_that_is_away_by_then_does_not_hide_the_error():
    def away() -> str:
        raise CatalogError("it is away")

    assert str(NoSuchEntry("the catalog has no run 'x'", away)) == "the catalog has no run 'x'"
