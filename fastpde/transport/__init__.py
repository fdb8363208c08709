"""Optimal transport between clouds: scalings of a kernel to given marginals."""
