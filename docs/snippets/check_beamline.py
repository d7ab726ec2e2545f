# [load]
from offbragg.beamline.config import load

config = load("my_beamline.toml")
geometry = config.make_geometry()

# [beam]
x, y, distance = geometry.direct_beam()  # pixels from the panel's outer corner, and mm

# [doctor]
from offbragg.doctor.examine import examine  # noqa: E402

for finding in examine(config, devices=False):  # on a host that sees no instruments
    print(finding)
