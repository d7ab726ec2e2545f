"""IPython settings of ``offbragg shell``."""

c = get_config()
c.TerminalInteractiveShell.banner2 = (
    "offbragg: RE, devices, plans, cat · sample(name=…, label=…) · experiment(proposal=…) · "
    "%ledger %wa %mov\n"
)
c.InteractiveShell.xmode = "Context"
