# ruff: noqa: E402
# [h5py]
import h5py
import hdf5plugin  # noqa: F401  the filter for bitshuffle-LZ4

with h5py.File("f1.h5", "r") as file:
    frame = file["/entry/data/data"][2]
    status = file["/entry/frames/status"].asstr()[2]
    sample = file["/entry/sample/name"].asstr()[()]
print(sample, status, frame.max())
# [offbragg]
from offbragg.files.scan_file import ScanFile

with ScanFile.open("f1.h5") as scan:
    print(scan.sample.name, scan.sweep.midpoints, scan.ledger.counts())
    for number, status, reason in scan.ledger.problems():
        print(number, status, reason)
    frame = scan.stack.counts[2]
