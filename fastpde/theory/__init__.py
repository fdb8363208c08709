"""What theory knows of a flow before it is computed: explicit bounds, and statements with their sources."""
