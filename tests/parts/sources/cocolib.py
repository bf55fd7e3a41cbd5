"""COCO's JSON in miniature: three images, boxes with polygons and run lengths, captions."""

import json

import numpy as np
import PIL.Image

CATEGORIES = [{"id": 7, "name": "kite"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "tooth brush"}]
SIZES = {42: (20, 30), 5: (16, 24), 700: (18, 18)}
RECTANGLE = [[2, 3, 10, 3, 10, 9, 2, 9]]


def image(key, **change):
    height, width = SIZES.get(key, (8, 8))
    return {"id": key, "file_name": f"{key:012d}.png", "height": height, "width": width, **change}


def box(key, image_id, category=3, **change):
    row = {"id": key, "image_id": image_id, "category_id": category, "bbox": [2, 3, 8, 6], "area": 48.0, "iscrowd": 0}
    return {**row, "segmentation": RECTANGLE, **change}


def says(key, image_id, caption):
    return {"id": key, "image_id": image_id, "caption": caption}


IMAGES = [image(key) for key in SIZES]
BOXES = [
    box(11, 42, 90, bbox=[0.5, 1.25, 29.75, 18], area=100.5),
    box(4, 5),
    box(9, 42, 3, iscrowd=1, segmentation={"size": [20, 30], "counts": [5, 10, 585]}, bbox=[0, 5, 1, 10]),
    box(10, 42, 90, bbox=[-3, -2, 50, 40]),  # over each edge: kept as it is
]
SPOKEN = [says(1, 5, "one\ntwo  three "), says(8, 42, "ü 猫 \U0001f600"), says(3, 5, ""), says(2, 42, "x" * 100_000)]


def write(folder, annotations=BOXES, *, images=IMAGES, categories=CATEGORIES, name="a.json", **json_options):
    content = {"info": {"n": [1, {"a": "]"}]}, "images": images, "annotations": annotations, "categories": categories}
    path = folder / name
    path.write_text(json.dumps(content, **json_options), encoding="utf-8")
    return str(path)


def pictures(folder):
    for key, (height, width) in SIZES.items():
        PIL.Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(folder / f"{key:012d}.png")
    return str(folder)
