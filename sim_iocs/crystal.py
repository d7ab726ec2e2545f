"""Trivial placeholder."""
from __future__ import annotations
from dataclasses import dataclass, field
import numpy as np
SHAPES = {"100K": (195, 487), "300K": (619, 487), "1M": (1043, 981), "2M": (1679, 1475)}

@dataclass(frozen=True, slots=True)
class Exposure:
    number: int = 0
    angles: tuple = ((0,0,0),(0,0,0))
    seconds: float = 0.1
    temperature: float = 300.0
    beam: float = 1.0
    series: int = 0

class Crystal:
    def __init__(self, detector, *, seed=0):
        self.shape = SHAPES[detector]
        self.seed = seed
    def typical_angles(self, number): return ((0,0,0),(0,0,0))
    def count(self, e):
        rng=np.random.default_rng([self.seed,e.series,e.number])
        a=rng.poisson(1,self.shape).astype(np.int32)
        a[:, (7*e.number)%self.shape[1]] += 100
        return a
