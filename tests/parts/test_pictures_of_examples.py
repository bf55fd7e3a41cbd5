"""Pictures of examples: what lies where, in which colour, and never wider than its room."""

import io

import numpy as np
import PIL.Image

from spendflops.parts import pictures


def flat(value, size=(20, 30)):
    return np.full((*size, 3), value, np.uint8)


def test_classes_cover_the_image_and_ignored_pixels_stay():
    classes = np.array([[0, 255], [3, 3]])
    seen = pictures.covered(flat(100, (4, 4)), classes, cover=0.5)
    assert (seen[:2, 2:] == 100).all()
    for place, label in (((0, 0), 0), ((3, 3), 3)):
        assert np.abs(seen[place] - (50 + 0.5 * np.array(pictures.colour(label)))).max() <= 0.5
    assert len({pictures.colour(label) for label in range(150)}) == 150


def test_names_are_cut_to_the_tile_and_bars_have_their_colour():
    for name in ("cat", "a name that is much longer than the tile"):
        tile = pictures.named(flat(7, (20, 60)), name, bar=pictures.WRONG)
        assert tile.shape == (20 + pictures.BAR, 60, 3) and (tile[pictures.BAR :] == 7).all()
        assert (tile[0] == pictures.WRONG).all() and (tile[: pictures.BAR, -3:] == pictures.WRONG).all()
        assert (tile[: pictures.BAR] == 255).all(axis=2).any()  # letters


def test_keys_name_every_class_below_the_image():
    made = pictures.keyed(flat(9, (10, 80)), [0, 2, 5], [f"class {i}" for i in range(6)])
    assert (made[:10] == 9).all() and made.shape == (10 + 3 * pictures.BAR, 80, 3)  # one of a line
    for label in (0, 2, 5):
        assert (made[10:] == pictures.colour(label)).all(axis=2).sum() > 50
    assert pictures.keyed(flat(9, (10, 80)), [], []).shape == (10, 80, 3)


def test_tiles_stand_row_after_row():
    made = pictures.tiled([flat(1, (4, 4)), flat(2, (4, 4)), flat(3, (2, 4))], 2)
    assert made.shape == (8 + pictures.GAP, 8 + pictures.GAP, 3)
    assert (made[:4, :4] == 1).all() and (made[:4, -4:] == 2).all() and (made[-4:-2, :4] == 3).all()
    assert (made[-2:] == 255).all()


def test_sizes_and_files():
    assert pictures.fitted(flat(1, (50, 100)), 40).shape == (20, 40, 3)
    with PIL.Image.open(io.BytesIO(pictures.jpeg(flat((200, 30, 90))))) as made:
        assert made.format == "JPEG" and np.abs(np.asarray(made, int) - (200, 30, 90)).max() <= 3


def test_places_are_spread_over_the_data():
    assert pictures.spread(90, 3) == [15, 45, 75] and pictures.spread(2, 3) == [0, 1] and pictures.spread(0, 3) == []
