"""IPython settings of ``offbragg shell``."""

c = get_config()
c.TerminalInteractiveShell.banner2 = "offbragg: RE, devices, plans, sample(RE, name=…, label=…)\n"
c.InteractiveShell.xmode = "Context"
