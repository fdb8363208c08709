"""Derivatives of runs in what they start from: gradients by the adjoint of their steps."""
