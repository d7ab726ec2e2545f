"""The simulated beamline that these tests measure with."""

from simulated import RE, config, devices, documents, ioc, simulator

__all__ = ["RE", "config", "devices", "documents", "ioc", "simulator"]
