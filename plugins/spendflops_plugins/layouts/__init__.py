"""Layouts of other people's weights. Keys are those of their published files."""
