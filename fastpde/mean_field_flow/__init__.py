"""The mean-field limit: the flow of a law under attention.

`MeanField` is what users see. It checks its arguments (`mean_field_limit`), makes a `Setting` of them and hands it to
the first of these that fits: `affine_flow` (the law stays Gaussian), `agreement` (finer and finer quadrature rules,
until two agree), `scrambles` (several scrambled Sobol sequences, until their spread is small). Each makes a `Carrier`,
which has the answers.
"""

from .mean_field_limit import MeanField

__all__ = ["MeanField"]
