# [open]
import os

import zarr
from obstore.store import HTTPStore
from zarr.storage import ObjectStore

address, key = os.environ["OFFBRAGG_CATALOG"], os.environ["OFFBRAGG_KEY"]
volume = os.environ["OFFBRAGG_VOLUME"]  # its key in the catalog, as volume-f1-55fc9cf9
store = HTTPStore.from_url(
    f"{address}/zarr/v3/volumes/{volume}/",
    client_options={"default_headers": {"Authorization": f"Apikey {key}"}, "allow_http": True},
)
group = zarr.open_group(ObjectStore(store, read_only=True), mode="r")
# [levels]
image = group.attrs["ome"]["multiscales"][0]
levels = [group[dataset["path"]] for dataset in image["datasets"]]  # each l, k, h
middle = levels[1].shape[0] // 2
plane = levels[1][middle]  # cells of 2 × 2 × 2: k, h; NaN where nothing was measured

scale, translation = (
    transform[transform["type"]] for transform in image["datasets"][1]["coordinateTransformations"]
)
height = middle * scale[0] + translation[0]  # its l, r.l.u.
print(f"l = {height:g}", plane.shape)
# [napari]
first = image["datasets"][0]["coordinateTransformations"]
scale, translation = first[0]["scale"], first[1]["translation"]
