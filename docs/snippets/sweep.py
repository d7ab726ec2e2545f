from offbragg.sweep import Sweep

sweep = Sweep("phi", start=0.0, step=0.5, n_frames=4, exposure=0.099, period=0.1)

assert list(sweep.edges) == [0.0, 0.5, 1.0, 1.5, 2.0]  # degree
assert list(sweep.midpoints) == [0.25, 0.75, 1.25, 1.75]  # the angle of each frame
assert sweep.stop == 2.0
assert sweep.speed == 5.0  # degree/s
