"""Laws of tokens: samples, scrambled Sobol points, quadrature nodes, moments and densities.

`law.sample(n, seed)` and `law.sobol(n, seed)` return points (n, d), `law.nodes(m)` points (q, d) and weights (q,) that
integrate smooth functions to spectral accuracy, `law.mean`, `law.cov`, `law.density(x)` and `law.log_density(x)` are
exact.
"""

from .combined import Box, Empirical, Mixture, Product
from .gaussian import Gaussian
from .law import Law
from .round import Annulus, Ball, Radial, Sphere

__all__ = ["Annulus", "Ball", "Box", "Empirical", "Gaussian", "Law", "Mixture", "Product", "Radial", "Sphere"]
