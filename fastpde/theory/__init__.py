"""What theory knows of a flow or a cloud: energies and their dissipation, clusters, bounds, statements with sources."""
