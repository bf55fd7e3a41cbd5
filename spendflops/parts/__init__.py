"""Building blocks that plugins may import."""
