"""Learning rates that fall with the depth, for fine-tuning (BEiT, MAE, SimMIM)."""

from __future__ import annotations

from spendflops.contracts import errors
from spendflops.contracts.objective import Group

EXEMPT = r".*/(\w*bias\w*|\w*scale|gamma_\d)|backbone/(\w*_token|pos_embed)"
"""Parameters without weight decay."""


def layer_decay(*, rate: float, depth: int, exempt: str = EXEMPT) -> tuple[Group, ...]:
    """Optimiser groups of a vision transformer: each layer learns ``rate`` times as fast as the one above it.

    The numbering is MAE's: what comes before the blocks is layer 0, block i is layer i + 1, all else, the head and the
    last norm, is layer ``depth`` + 1 and learns at the full rate. Layer k learns at rate^(depth + 1 - k). ViT-B with
    0.65: the patch embedding at 0.65^13 = 0.0037, the last block at 0.65.

    Args:
        rate: Above 0, at most 1.
        depth: Blocks.
        exempt: Expression of the paths that have no weight decay.

    Raises:
        errors.ConfigError: A rate or a depth out of range.
    """
    if not 0 < rate <= 1 or depth < 1:
        raise errors.ConfigError(f"layer_decay(rate={rate}, depth={depth})", fix="a rate in (0, 1], at least one block")
    first = r"backbone/(patch_embed/.*|\w*_token|pos_embed)"
    layers = [(first, depth + 1), *((rf"backbone/blocks/{i}/.*", depth - i) for i in range(depth)), (r".*", 0)]
    groups = []
    for pattern, power in layers:
        scale = rate**power
        groups.append(Group(match=rf"(?=(?:{exempt})$)(?:{pattern})", lr=scale, decay=False))
        groups.append(Group(match=pattern, lr=scale))
    return tuple(groups)
