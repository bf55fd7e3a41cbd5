"""Object detection and instance segmentation: models, operators, data and metrics.

Boxes are (left, top, right, bottom) in pixels, right and bottom exclusive, float32. Operators work on one image and are
mapped over a batch; padded objects carry ``valid`` = False.
"""
