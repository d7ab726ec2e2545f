# [connect]
import offbragg

catalog = offbragg.connect()
# [find]
cold = catalog.runs(sample="LSMO*", temperature=(90, 110))
for run in cold:
    print(run.uid[:8], run.scan_id, run.temperature, "K")
# [frames]
run = cold[-1]
one = run.frames[2]
region = run.frames[0:3, 100:150, 200:300]  # frames, rows, columns: only this travels
every_tenth = run.frames[::10, 90:110, 200:220]
sums = run.frames.sums[0:500, 90:110, 200:220]  # one number a frame, summed by the server
# [rows]
rows = run.table()
print(rows[rows["status"] != "stored"])
print(run.ledger)
# [plane]
volume = run.volume
plane = volume.plane("hk0.5", level=2)  # plane.intensity, plane.axes in r.l.u.
cut = volume.cut((0, 0, 0.5), (1, 1, 0.5))
box = volume.box((-1, 1), (-1, 1), (0, 0.5))
# [series]
series = catalog.series()
progress = series.table()
order = series.order_parameter((0.5, 0.5, 0.5))
print(order)
# [follow]
curve = catalog.curve("phi (degree)", "counts in the region")
for frame in run.follow():
    curve.add(frame.angle, frame.sum(slice(90, 110), slice(200, 220)), run.temperature)
# [download]
paths = run.download("data")
