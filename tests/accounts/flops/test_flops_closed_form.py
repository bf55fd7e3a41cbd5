"""Counter A against published tables."""

import pytest

from spendflops.accounts.flops.closed_form import mae_forward, mae_train, transformer, vit_forward, vit_train

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
