"""State, step, data, checkpoints and the loop: everything that a plugin should not have to think about."""
