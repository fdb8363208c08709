"""Time stepping: the integration of y' = f(t, y), given field(t, y, out), without knowledge of where f comes from."""

from fastpde.integrate.events import BlowUp, Collapsed, Event, SteadyState
from fastpde.integrate.integrator import Integrator
from fastpde.integrate.methods import METHODS
from fastpde.integrate.observers import Observer
from fastpde.integrate.problem import Problem
from fastpde.integrate.solution import Solution
from fastpde.integrate.solve import integrate
from fastpde.integrate.state import State
from fastpde.integrate.status import Status

__all__ = [
    "METHODS",
    "BlowUp",
    "Collapsed",
    "Event",
    "Integrator",
    "Observer",
    "Problem",
    "Solution",
    "State",
    "Status",
    "SteadyState",
    "integrate",
]
