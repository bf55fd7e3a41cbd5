"""The only place that imports gin: scan, load the plugins named, parse, check, build."""
