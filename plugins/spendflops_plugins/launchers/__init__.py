"""Launchers: where the workers of a study run."""
