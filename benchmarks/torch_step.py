"""One training step of the methods in PyTorch: timm's ViT, Hugging Face's ViTMAE and CLIP, DINO from timm and lightly.

python benchmarks/torch_step.py METHOD float32|bfloat16 STEPS, by a Python that has torch; prints seconds a step. It is
called by step_speed.py. Models, batch, views and optimiser are those of step_speed.py.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time

import torch
from torch import library, nn
from torch.nn import functional

BATCH, DIM, DEPTH, HEADS = 16, 192, 12, 3
WARM = 1
_LIBRARY = None
if importlib.util.find_spec("torchvision") and not hasattr(torch.ops.torchvision, "nms"):
    # A torchvision that was built for another torch cannot register its operators; nothing here calls them.
    _LIBRARY = library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _LIBRARY.define(f"{_name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")


def supervised():
    """A classifier of 1,000 classes; images [16 3 224 224]."""
    import timm

    model = timm.create_model("vit_tiny_patch16_224", num_classes=1000)
    images, labels = torch.randn(BATCH, 3, 224, 224), torch.randint(0, 1000, (BATCH,))
    return model, lambda: functional.cross_entropy(model(images), labels, label_smoothing=0.1), None


def mae():
    """MAE with a decoder of 8 blocks, 512 wide, 75 % hidden."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        hidden_size=DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * DIM,
        norm_pix_loss=True,
    )
    model = ViTMAEForPreTraining(config)
    images = torch.randn(BATCH, 3, 224, 224)
    return model, lambda: model(pixel_values=images).loss, None


def clip():
    """CLIP with a text tower of 4 blocks, 256 wide, 55 tokens, and embeddings of 768."""
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "hidden_size": DIM,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * DIM,
    }
    vision |= {"patch_size": 16, "image_size": 224}
    text = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    text |= {"vocab_size": 6144, "max_position_embeddings": 55, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768))
    images, tokens = torch.randn(BATCH, 3, 224, 224), torch.randint(4, 6144, (BATCH, 55))
    return model, lambda: model(input_ids=tokens, pixel_values=images, return_loss=True).loss, None


class _Student(nn.Module):
    def __init__(self, output: int = 65536):
        super().__init__()
        import timm
        from lightly.models.modules import DINOProjectionHead

        self.trunk = timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True)
        self.head = DINOProjectionHead(DIM, 2048, 256, output)

    def forward(self, views):
        return self.head(torch.cat([self.trunk(batch) for batch in views]))


def dino():
    """DINO: 2 views of 224 and 8 of 96 pixels, 65,536 prototypes, an EMA teacher."""
    from lightly.loss import DINOLoss

    student, teacher = _Student(), _Student()
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    loss = DINOLoss(output_dim=65536)
    large, small = torch.randn(2 * BATCH, 3, 224, 224), torch.randn(8 * BATCH, 3, 96, 96)

    def call():
        with torch.no_grad():
            targets = teacher([large]).float().chunk(2)
        return loss(list(targets), list(student([large, small]).float().chunk(10)), epoch=0)

    def after():
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
                old.lerp_(new, 0.004)

    return student, call, after


def main() -> None:
    """Trains some steps and prints the seconds of each."""
    method, dtype, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.manual_seed(0)
    model, call, after = {"supervised": supervised, "mae": mae, "clip": clip, "dino": dino}[method]()
    model.train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4, weight_decay=0.05)
    taken = []
    for _ in range(WARM + steps):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = call()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if after is not None:
            after()
        loss.item()
        taken.append(time.perf_counter() - started)
    print(json.dumps({"seconds": taken[WARM:], "version": torch.__version__, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
