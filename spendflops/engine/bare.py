"""A backbone without an objective, and data that nobody opens: what weights without a run are built on."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from flax import nnx

from spendflops.contracts import errors
from spendflops.contracts.backbone import Backbone
from spendflops.contracts.dataset import Dataset
from spendflops.contracts.objective import Objective, Views
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec, Loss


@dataclasses.dataclass(frozen=True)
class NoViews(Views):
    """Nothing is trained."""

    def __call__(self, sample: Any, rng: Any, spec: InputSpec) -> dict[str, Any]:
        raise errors.ConfigError("a backbone without an objective cannot be trained", fix="name an objective")


class Bare(Objective):
    """A backbone alone: it gives features."""

    inputs: ClassVar = {"image": "uint8 B H W C"}
    views = NoViews

    def __init__(self, backbone: Backbone, *, info: DatasetInfo, rngs: nnx.Rngs):
        self.backbone = backbone

    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        raise errors.ConfigError("a backbone without an objective cannot be trained", fix="name an objective")


UNKNOWN = "unknown"
"""The name of data of which nobody knows more than how many classes they have."""


class Unopened(Dataset):
    """Data of which no more is known than how many classes they have.

    Args:
        classes: Their number; their names are numbers.
    """

    def __init__(self, *, classes: int = 0):
        self.info = DatasetInfo(name=UNKNOWN, features={}, classes=tuple(f"class {i}" for i in range(classes)))

    def source(self, split: str, *, features: tuple[str, ...]) -> Any:
        raise errors.DataError("these data are not there", fix="name a data set")
