"""Many runs as one object: grid, frontier, report."""
