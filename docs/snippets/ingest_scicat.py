#!/usr/bin/env python3
"""Put a stored run into SciCat: what [hooks] on_stored runs.

It reads one line of JSON from offbragg stack, has the record written, and posts its datasets.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import httpx

PREFIX = os.environ.get("SCICAT_PREFIX", "")  # that the server puts before a pid, with its /
SCICAT = os.environ["SCICAT_URL"]  # as https://scicat.example.org/api/v3
KEY = Path(os.environ["SCICAT_TOKEN_FILE"])  # readable by this user only


def exported(run: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "offbragg",
                "export",
                run,
                "--format",
                "scicat",
                "--out",
                folder,
            ],
            check=True,
        )
        (path,) = Path(folder).iterdir()
        return json.loads(path.read_text())


def ingest(record: dict, client: httpx.Client) -> None:
    pids: dict[str, str] = {}  # ours -> SciCat's, which may have a prefix
    for each in record["datasets"]:
        dataset, block = each["dataset"], each["origdatablock"]
        if "inputDatasets" in dataset:
            dataset["inputDatasets"] = [pids[pid] for pid in dataset["inputDatasets"]]
        answer = client.post("/datasets", json=dataset)
        if answer.status_code == 409:  # an earlier try came as far as this, and perhaps no farther
            pid = PREFIX + dataset["pid"]
            known = client.get(f"/datasets/{quote(pid, safe='')}/origdatablocks").raise_for_status()
        else:
            pid = answer.raise_for_status().json()["pid"]
            known = None
        pids[dataset["pid"]] = block["datasetId"] = pid
        if known is None or not known.json():
            client.post("/origdatablocks", json=block).raise_for_status()


stored = json.load(sys.stdin)
headers = {"Authorization": f"Bearer {KEY.read_text().strip()}"}
with httpx.Client(base_url=SCICAT, headers=headers, timeout=30.0) as client:
    ingest(exported(stored["run"]), client)
