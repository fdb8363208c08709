"""Observables of one's own, as a user writes them: nothing here is known to the package."""

import numpy as np

import fastpde as fp

width = fp.Observable("width", ["width_0", "width_1"], lambda t, x: np.ptp(x, axis=0))
later = fp.Observable("later", ["age", "far"], lambda t, x: (2.0 * t, np.abs(x).max()))
lost = fp.Observable("lost", ["nothing"], lambda t, x: np.nan)
wrong = fp.Observable("wrong", ["one", "two"], lambda t, x: 1.0)
steps = fp.Observable("mine", ["steps"], lambda t, x: 1.0)
table = fp.Observable("observables", ["y"], lambda t, x: 1.0)
taken = fp.Observable("taken", ["trace"], lambda t, x: 1.0)
broken = fp.Observable("broken", ["b"], lambda t, x: x.max() if t < 0.5 else [][0])
function = len
