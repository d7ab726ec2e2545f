"""The blind test (tests/blind.py) as a test: no one knows the crystal until it is reduced."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "reduction"))

import blind


def test_the_seal_hides_and_opens():
    text, key = b'{"Tc": 150.0}' * 40, hashlib.sha256(b"1").digest()

    closed = blind.sealed(text, key)

    assert b"Tc" not in closed
    assert blind.sealed(closed, key) == text
    assert blind.sealed(closed, hashlib.sha256(b"2").digest()) != text


def test_a_wrong_answer_does_not_pass():
    truth = blind.draw("t", np.random.default_rng(1))
    right = {"UB": truth["UB"], "Tc": truth["Tc"], "beta": truth["beta"], "again": True, "bragg": 1}
    turned = blind.sim.turn((0.0, 0.0, 1.0), 0.03) @ np.array(truth["UB"])
    wrong = [
        {"UB": turned},
        {"UB": np.array(truth["UB"]) * 1.001},
        {"Tc": truth["Tc"] + 0.6},
        {"beta": truth["beta"] - 0.06},
        {"again": False},
        {"bragg": 0.5},
    ]

    assert all(blind.score(right, truth)["right"].values())
    for change in wrong:
        passed = blind.score(right | change, truth)["right"]
        assert list(passed.values()).count(False) == 1, change


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", ["o", "t", "c"])
def test_blind(tmp_path, family):
    scores = blind.run(tmp_path, families=family)

    print(blind.table(scores))
    assert all(all(each["right"].values()) for each in scores), scores
