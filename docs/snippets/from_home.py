# ruff: noqa: E402
# [connect]
import os

from tiled.client import from_uri

address, key = os.environ["OFFBRAGG_CATALOG"], os.environ["OFFBRAGG_KEY"]
catalog = from_uri(address, api_key=key)
cat = catalog["raw"]
# [find]
from tiled.queries import Key

mine = cat.search(Key("sample.name") == "LSMO-140")
above = mine.search(Key("temperature.setpoint") >= 90)
cold = above.search(Key("temperature.setpoint") < 110)
for uid, run in cold.items():
    print(uid[:8], run.start["scan_id"], run.start["temperature"]["setpoint"], "K")
# [rows]
import pandas as pd

run = cold.values().last()
columns = ["time", "angle", "monitor", "temperature", "status"]
rows = run["primary"].read(columns).to_dataframe()
rows.index = pd.to_datetime(rows.index, unit="s", utc=True)
print(rows[rows["status"] != "stored"])
# [slice]
image = run["primary"]["pilatus_image"]  # <name of the detector>_image
one = image[2]  # one frame
region = image[0:3, 100:150, 200:300]  # frames, rows, columns: only this travels
print(image.shape, region.max())
# [plane]
import io
from urllib.request import Request, urlopen

import numpy as np

volumes = catalog["volumes"]
for name, volume in volumes.search(Key("sample.name") == "LSMO-140").items():
    print(name, volume.metadata["temperature"], "K", volume.metadata["completeness"])
    where = f"{address}/volumes/{name}/plane?plane=hk0&level=2&format=npy"
    answer = urlopen(Request(where, headers={"Authorization": f"Apikey {key}"})).read()
    intensity = np.load(io.BytesIO(answer))  # h, k; NaN where nothing was measured
# [databroker]
table = cat.v1[run.start["uid"]].table()
found = list(cat.v1(**{"sample.name": "LSMO-140"}))
