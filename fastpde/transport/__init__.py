"""Optimal transport: Wasserstein distances between clouds and Gaussian laws, and Sinkhorn scalings of kernels."""
