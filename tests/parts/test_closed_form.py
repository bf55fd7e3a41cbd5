"""Counter A against published tables."""

import pytest

from spendflops.parts.closed_form import (
    convolution,
    linear,
    patch_embedding,
    resize,
    transformer,
    vit_forward,
    vit_train,
)

SIZES = {"Ti": (192, 12), "S": (384, 12), "B": (768, 12), "L": (1024, 24), "H": (1280, 32)}


@pytest.mark.parametrize(
    ("size", "patch", "cls", "classes", "forward", "train"),
    [
        ("Ti", 16, True, 1000, 2507366400, 7464296448),  # T7
        ("B", 16, True, 1000, 35127656448, 105151758336),  # T7
        ("Ti", 16, False, 1000, 2493127680, 7421580288),
        ("S", 16, True, 1000, 9197764608, 27477688320),
        ("S", 16, True, 0, 9196996608, 27475384320),
        ("B", 16, False, 1000, 34943299584, 104598687744),
        ("B", 16, False, 0, 34941763584, 104594079744),
        ("B", 32, True, 1000, 8818372608, 26223906816),
        ("L", 16, True, 1000, 123109425152, 369019994112),
        ("L", 16, False, 1000, 122466811904, 367092154368),
        ("H", 14, True, 0, 334587658240, 1003377623040),
        ("H", 14, True, 1000, 334590218240, 1003385303040),
    ],
)
def test_vit(size, patch, cls, classes, forward, train):
    width, layers = SIZES[size]
    options = {"image": 224, "patch": patch, "width": width, "layers": layers, "classes": classes, "cls": cls}
    assert vit_forward(**options) == forward
    assert vit_train(**options) == train


def mae_forward(
    *, image: int, patch: int, width: int, layers: int, kept: int, decoder_layers: int, decoder_width: int = 512
) -> int:
    """MAE forward: all patches embedded, an encoder on K + 1 tokens, a decoder on n + 1 tokens.

    2 [3 n D P^2 + L (12 (K+1) D^2 + 2 (K+1)^2 D)] for the encoder; 2 [(K+1) D E + M (12 (n+1) E^2 + 2 (n+1)^2 E) +
    (n+1) E 3 P^2] for the decoder of width E and depth M.

    Args:
        image: Side of the square image, in pixels.
        patch: Side of a patch, in pixels.
        width: D of the encoder.
        layers: L of the encoder.
        kept: K, the patches the encoder sees.
        decoder_layers: M.
        decoder_width: E.
    """
    patches = (image // patch) ** 2
    encoder = patch_embedding(patches, patch, width) + transformer(kept + 1, width, layers)
    decoder = (
        linear(kept + 1, width, decoder_width)
        + transformer(patches + 1, decoder_width, decoder_layers)
        + linear(patches + 1, decoder_width, 3 * patch * patch)
    )
    return encoder + decoder


def mae_train(
    *, image: int, patch: int, width: int, layers: int, kept: int, decoder_layers: int, decoder_width: int = 512
) -> int:
    """MAE forward and backward: 3 F - 2 (3 n D P^2), for the reason given in `vit_train`."""
    forward = mae_forward(
        image=image,
        patch=patch,
        width=width,
        layers=layers,
        kept=kept,
        decoder_layers=decoder_layers,
        decoder_width=decoder_width,
    )
    return 3 * forward - patch_embedding((image // patch) ** 2, patch, width)


@pytest.mark.parametrize(
    ("size", "patch", "kept", "decoder_layers", "forward", "train"),
    [
        ("Ti", 16, 49, 8, 11327623168, 33925066752),  # T8
        ("Ti", 16, 49, 1, 2095339520, 6228215808),  # T8
        ("Ti", 16, 88, 8, 11799307264, 35340119040),
        ("Ti", 16, 68, 1, 2321632256, 6907094016),
        ("Ti", 16, 29, 8, 11096608768, 33232023552),
        ("S", 16, 49, 8, 13010821120, 38916857856),
        ("S", 16, 29, 1, 2891835392, 8559900672),
        ("B", 16, 88, 8, 26417680384, 79021830144),
        ("B", 16, 49, 8, 19562266624, 58455588864),
        ("B", 16, 49, 1, 10329982976, 30758737920),
        ("L", 16, 49, 8, 41511567360, 124226420736),
        ("L", 16, 29, 1, 20021430272, 59756009472),
        ("H", 14, 64, 8, 97123823616, 290986119168),
        ("H", 14, 38, 1, 51665942528, 154612475904),
    ],
)
def test_mae(size, patch, kept, decoder_layers, forward, train):
    width, layers = SIZES[size]
    options = {"image": 224, "patch": patch, "width": width, "layers": layers, "kept": kept}
    assert mae_forward(**options, decoder_layers=decoder_layers) == forward
    assert mae_train(**options, decoder_layers=decoder_layers) == train


def test_parts():
    """Published per-part numbers of ViT-B/16: qkv, logits, attention times value, projection and MLP."""
    parts = 8366063616 + 715327488 + 715327488 + 2788687872 + 22309502976
    assert transformer(197, 768, 12) == parts
    # Without an MLP only attention and its projections remain.
    assert transformer(197, 768, 12, mlp_ratio=0) == parts - 22309502976


def test_decoder_width_counts():
    """Forward FLOPs of decoder parts: 8 layers, projection in, prediction out."""
    options = {"image": 224, "patch": 16, "width": 192, "layers": 12, "kept": 49, "decoder_layers": 8}
    narrow, wide = mae_forward(**options, decoder_width=256), mae_forward(**options)
    decoder = 2 * (50 * 192 * 256 + 8 * (12 * 197 * 256**2 + 2 * 197**2 * 256) + 197 * 256 * 768)
    assert wide - narrow == 2 * 5357969408 - decoder


def test_transformer_with_its_own_widths():
    """ViNy: 8 heads of width 64 in a model of width 128; 64 tokens and 12 layers are 352.3e6 products."""
    one_layer = 64 * 128 * 1536 + 64 * 512 * 128 + 2 * 64 * 64 * 512 + 2 * 64 * 128 * 512
    assert transformer(64, 128, 12, inner=512) == 12 * 2 * one_layer
    assert transformer(64, 128, 12, inner=512, hidden=512) == transformer(64, 128, 12, inner=512, mlp_ratio=4)
    assert transformer(197, 768, 12, inner=768, hidden=3072) == transformer(197, 768, 12)


@pytest.mark.parametrize(("width", "layers", "products"), [(2560, 24, 493.6e9), (4096, 32, 1673.6e9)])
def test_sizes_of_maws(width, layers, products):
    """methods_mim 4.1: multiply-adds of one image of 224 pixels with patches of 14."""
    assert vit_forward(image=224, patch=14, width=width, layers=layers) / 2 == pytest.approx(products, rel=1e-4)


def test_resize_is_one_product_an_axis():
    assert resize((14, 14), (6, 6), 768) == 2 * 768 * (6 * 14 * 14 + 6 * 6 * 14)
    assert resize((3, 4), (5, 6), 1) == 2 * (5 * 3 * 4 + 5 * 6 * 4)
    assert resize((14, 14), (14, 14), 768) == 0


@pytest.mark.parametrize("size", [(1, 1), (6, 7), (224, 5)])
@pytest.mark.parametrize("kernel, stride", [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2), (5, 3)])
def test_convolution_counts_products_with_pixels(size, kernel, stride):
    pairs, result = 0, tuple(-(-n // stride) for n in size)
    for row in range(result[0]):
        for col in range(result[1]):
            for i in range(kernel):
                for j in range(kernel):
                    y, x = row * stride + i - kernel // 2, col * stride + j - kernel // 2
                    pairs += 0 <= y < size[0] and 0 <= x < size[1]
    assert convolution(size, 3, 5, kernel=kernel, stride=stride) == (2 * 3 * 5 * pairs, result)
