# [load]
from offbragg.beamline import load

config = load("my_beamline.toml")
geometry = config.make_geometry()

# [beam]
from offbragg.devices.pilatus import beam_on_panel  # noqa: E402

distance, x, y = beam_on_panel(geometry)  # mm, and pixels from the panel's outer corner

# [doctor]
from offbragg.doctor import examine  # noqa: E402

for finding in examine(config, devices=False):  # on a host that sees no instruments
    print(finding)
