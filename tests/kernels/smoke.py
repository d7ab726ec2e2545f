"""What an installed wheel must be able to do; run as a script, where there is no compiler."""

import io

import h5py
import hdf5plugin  # registers the filter
import numpy as np

from offbragg import kernels

assert kernels.compiled, "the wheel has no kernels"
print("kernels:", kernels.level, "of", *kernels.available())

counts = np.arange(-4, 5, dtype=np.int32).repeat(3000).reshape(90, 300)
counts[7, 7] = 1_000_000
steps = np.diff(counts.ravel().astype(np.int64), prepend=0)
stream = b"".join(
    int(s).to_bytes(1, "little", signed=True) if abs(s) < 128
    else b"\x80\x00\x80" + int(s).to_bytes(4, "little", signed=True)
    for s in steps
)  # fmt: skip
chunk = kernels.decode_encode(stream, counts.size, np.empty(kernels.chunk_bound(counts.size), "u1"))
with h5py.File(io.BytesIO(), "w") as file:
    data = file.create_dataset(
        "data", (1, *counts.shape), "<i4", chunks=(1, *counts.shape),
        **hdf5plugin.Bitshuffle(nelems=0, cname="lz4"),
    )  # fmt: skip
    data.id.write_direct_chunk((0, 0, 0), chunk.tobytes())
    assert np.array_equal(data[0], counts)
again = np.empty_like(counts)
kernels.decode_chunk(chunk, again)
assert np.array_equal(again, counts)
print("a stream is decoded, compressed, and read by HDF5 and by us as it was")
