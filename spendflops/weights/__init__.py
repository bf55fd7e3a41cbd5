"""Weights on disk: read without trust, matched by rules, kept in folders of our own."""
