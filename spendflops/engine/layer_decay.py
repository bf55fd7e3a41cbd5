"""Learning rates that fall with the depth, for fine-tuning (BEiT, MAE, SimMIM)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from spendflops.contracts import errors
from spendflops.contracts.objective import Group

EXEMPT = r".*/(\w*bias\w*|\w*scale|gamma_\d)|backbone/(\w*_token|pos_embed)"
"""Parameters without weight decay."""


class Layers(tuple[Group, ...]):
    """The groups of :func:`layer_decay`, which are those of a backbone with ``depth`` blocks and of no other."""

    depth: int

    def check(self, paths: Iterable[str]) -> None:
        """Compares ``depth`` with the blocks that there are.

        Args:
            paths: Of all parameters.

        Raises:
            errors.ConfigError: Blocks that would learn at the full rate, or blocks that there are not.
        """
        blocks = {int(found[1]) for path in paths if (found := re.match(r"backbone/blocks/(\d+)/", path))}
        if len(blocks) != self.depth:
            raise errors.ConfigError(
                f"layer_decay is made for {self.depth} blocks, the backbone has {len(blocks)}",
                why="the rate of a layer is that of the one above it, times layer_decay.rate",
                fix=f"set layer_decay.depth to {len(blocks)}" if blocks else "it is for vision transformers",
            )


def layer_decay(*, rate: float, depth: int, exempt: str = EXEMPT) -> Layers:
    """Optimiser groups of a vision transformer: each layer learns ``rate`` times as fast as the one above it.

    The numbering is MAE's: what comes before the blocks is layer 0, block i is layer i + 1, all else, the head and the
    last norm, is layer ``depth`` + 1 and learns at the full rate. Layer k learns at rate^(depth + 1 - k). ViT-B with
    0.65: the patch embedding at 0.65^13 = 0.0037, the last block at 0.65.

    Args:
        rate: Above 0, at most 1.
        depth: Blocks; another number than the backbone's is an error when the optimiser meets it.
        exempt: Expression of the paths that have no weight decay; "" for none.

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
        if exempt:
            groups.append(Group(match=rf"(?=(?:{exempt})$)(?:{pattern})", lr=scale, decay=False))
        groups.append(Group(match=pattern, lr=scale))
    made = Layers(groups)
    made.depth = depth
    return made
