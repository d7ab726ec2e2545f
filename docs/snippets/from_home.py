import os

from tiled.client import from_uri
from tiled.queries import Comparison, Key

cat = from_uri(os.environ["OFFBRAGG_CATALOG"] + "/raw", api_key=os.environ["OFFBRAGG_KEY"])

# Find runs: each search narrows the one before.
mine = cat.search(Key("sample.name") == cat.values().last().start["sample"]["name"])
cold = mine.search(Comparison("lt", "temperature.setpoint", 150.0))
for uid, run in cold.items():
    print(uid[:8], run.start["temperature"]["setpoint"], "K", run.start["purpose"])

# One row per frame, without the frames themselves.
run = cold.values().last()
rows = run["primary"].read(["angle", "monitor", "temperature", "status"])
print(rows)

# One region of a few frames; only this travels.
image = run["primary"][f"{run.start['detector']['name']}_image"]
region = image[10:13, 50:90, 100:180]
print(image.shape, region.shape, region.max())
