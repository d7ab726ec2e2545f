"""Units that systemd itself takes without a word, and what goes beside them."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from offbragg.beamline.config import load
from offbragg.cli.app import app
from offbragg.errors import ConfigError
from offbragg.host.children import STOP_TIMEOUT
from offbragg.host.services import chosen
from offbragg.host.units import containerfile

ROOT = Path(__file__).parents[2]
NASTY = 'a "b" 50% $HOME \\n ü'


@pytest.fixture
def beamline(tmp_path) -> Path:
    directory = tmp_path / NASTY
    directory.mkdir()
    file = directory / "beamline.toml"
    file.write_text(
        'beamline_id = "13-ID/x 100%"\n[paths]\n'
        + "".join(f'{n} = "{n}"\n' for n in ("experiment", "frames", "journal", "catalog", "log"))
    )
    return file


@pytest.fixture
def written(beamline, tmp_path) -> Path:
    done = CliRunner().invoke(
        app,
        ["units", "--beamline", str(beamline), "--user", "root", "--output", str(tmp_path / "out")],
    )
    assert done.exit_code == 0, done.output
    return tmp_path / "out"


def judged(directory: Path) -> str:
    units = [
        str(path) for path in sorted(directory.iterdir()) if path.suffix in (".target", ".service")
    ]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return f"{done.stdout}{done.stderr}{done.returncode or ''}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units_without_a_word(written):
    assert len(list(written.glob("*.service"))) == 3
    assert judged(written) == ""

    unit = next(written.glob("*-serve.service"))
    unit.write_text(unit.read_text().replace("Restart=always", "Restart=allways"))
    assert "allways" in judged(written)  # it does look


def test_names_and_paths_are_what_they_were(beamline, written):
    assert {path.name for path in written.iterdir()} == {
        "offbragg-13-ID_x_100_.target",
        "offbragg-13-ID_x_100_-stack.service",
        "offbragg-13-ID_x_100_-serve.service",
        "offbragg-13-ID_x_100_-live.service",
        "Containerfile",
        "constraints.txt",
    }
    stack = (written / "offbragg-13-ID_x_100_-stack.service").read_text()
    assert r'/a \"b\" 50%% $$HOME \\n ü/beamline.toml"' in stack.partition("ExecStart=")[2]
    assert r'/a \"b\" 50%% $HOME \\n ü/journal"' in stack.partition("RequiresMountsFor=")[2]
    assert "RestartPreventExitStatus=2 3\n" in stack


def test_the_container_has_the_versions_that_were_tested(written):
    assert (written / "constraints.txt").read_text() == (ROOT / ".ci/constraints.txt").read_text()
    assert "-c /tmp/offbragg/constraints.txt" in (written / "Containerfile").read_text()
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert tools["package-data"]["offbragg.known_good"] == ["constraints.txt"]


def test_links_are_kept_as_they_are_named(tmp_path):
    (tmp_path / "raid" / "frames").mkdir(parents=True)
    (tmp_path / "data").symlink_to(tmp_path / "raid")
    (tmp_path / "shared").mkdir()
    real = tmp_path / "shared" / "13idx.toml"
    real.write_text(
        f'beamline_id = "x"\n[paths]\nframes = "{tmp_path}/data/frames"\n'
        + "".join(f'{name} = "{name}"\n' for name in ("experiment", "journal", "catalog", "log"))
    )
    (tmp_path / "here").mkdir()
    link = tmp_path / "here" / "beamline.toml"
    link.symlink_to(real)
    config = load(link)

    (stack,) = chosen(["stack"])
    assert stack.arguments(config)[-1] == str(link)  # else "journal" would be another folder
    assert config.paths.journal == tmp_path / "here" / "journal"

    text = containerfile(config, [stack])
    assert str(link) in text.partition("CMD")[2]
    for mounted in ("here", "shared", "data/frames", "raid/frames"):
        assert f" -v {tmp_path / mounted}:{tmp_path / mounted} " in text


def test_a_container_that_is_asked_to_end_has_the_time_that_its_services_have(written):
    run = (written / "Containerfile").read_text().partition("podman run")[2].partition("FROM")[0]

    assert int(run.partition("--stop-timeout=")[2].split()[0]) > STOP_TIMEOUT
    assert "--tz=local" in run  # dates in headers are read in the zone of the host


def test_only_what_it_wrote_itself_is_replaced(beamline, written):
    unit = next(written.glob("*-stack.service"))
    arguments = ["units", "--beamline", str(beamline), "--output", str(written)]
    assert CliRunner().invoke(app, arguments).exit_code == 0

    unit.write_text("[Unit]\nDescription=mine\n")
    done = CliRunner().invoke(app, arguments)

    assert isinstance(done.exception, ConfigError)
    assert "did not write it" in str(done.exception)
    assert unit.read_text() == "[Unit]\nDescription=mine\n"


def test_one_service_alone(beamline):
    done = CliRunner().invoke(app, ["units", "--beamline", str(beamline), "--only", "stack"])

    assert "serve" not in done.output
    assert '"--only", "stack"]' in done.output
