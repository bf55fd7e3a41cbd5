"""Objectives: a method is one class with two methods, ``targets`` and ``loss``.

The core owns the gradient, the optimiser, the EMA copies, sharding, FLOPs, checkpoints and the loop.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from spendflops.contracts.backbone import Backbone
from spendflops.contracts.registry import API_VERSION
from spendflops.contracts.types import Batch, Context, DatasetInfo, InputSpec, Loss, Sample

OUTPUTS = (
    "features",  # Features
    "logits",  # [B classes]
    "seg_logits",  # [B h w classes]
    "image_embedding",  # [B E]
    "text_embedding",  # [B E]
    "boxes",  # [B M 4], (left, top, right, bottom) in pixels of the image; best first, unused ones have score 0
    "box_scores",  # [B M]
    "box_labels",  # [B M]
    "box_masks",  # [B M h w], probabilities within each box
    "reconstruction",  # [B N PPC], pixels 0..255 of all patches as predicted; patches and their pixels row after row
    "hidden",  # bool [B N], which patches the prediction did not see
)
"""The closed table of what ``predict`` may give."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters that an optimiser treats alike.

    Attributes:
        match: Regular expression, matched in full against the parameter's path, e.g. ``.*/(bias|scale)``.
        lr: Factor on the learning rate.
        decay: Whether weight decay applies.
        start: First step at which these parameters are updated; their optimiser state starts then, too.
        start_fraction: The same as a part of the stage. With both, the earlier one counts.
        train: False closes over the parameters: they are not differentiated and cost no backward FLOPs.
    """

    match: str
    lr: float = 1.0
    decay: bool = True
    start: int | None = None
    start_fraction: float | None = None
    train: bool = True


class Views(abc.ABC):
    """Sample -> inputs of an objective, on the host. Subclasses are frozen dataclasses whose fields are the options."""

    @property
    def features(self) -> tuple[str, ...]:
        """The features of the data set that are read."""
        return ("image",)

    @property
    def optional(self) -> tuple[str, ...]:
        """Which optional inputs of the objective (``"boxes?"``, here ``"boxes"``) these views give."""
        return ()

    def letters(self, spec: InputSpec) -> dict[str, int]:
        """Sizes of the shape letters in ``Objective.inputs``: with them a run is planned without opening its data."""
        return {"H": spec.size[0], "W": spec.size[1], "C": 3}

    @abc.abstractmethod
    def __call__(self, sample: Sample, rng: np.random.Generator, spec: InputSpec) -> dict[str, np.ndarray]:
        """One example: its images are undecoded, all randomness comes from ``rng``."""


class Objective(nnx.Module):
    """A training objective on a backbone.

    ``__init__(self, backbone, *, info, rngs, <own options>)``: ``backbone`` is a built :class:`Backbone`, ``info`` the
    :class:`DatasetInfo` of the data it trains on. Plugins hold no gin import, no registration call, no sharding
    annotation, no ``nnx.jit/grad/scan/Optimizer`` and no stateful dropout.
    """

    api_version: ClassVar[int] = API_VERSION
    inputs: ClassVar[Mapping[str, str]]
    """``{"view": "uint8 B V=2 H W C", "boxes?": "float32 B M 4"}``: dtype, letters, ``?`` optional."""
    outputs: ClassVar[tuple[str, ...]] = ("features",)
    teacher: ClassVar[tuple[str, ...]] = ()
    """Submodules with an EMA copy: ``targets`` runs on it."""
    teacher_init: str = "copy"
    """Where the EMA copies start: at the online weights ("copy"), or at weights of their own ("independent")."""
    transfer: ClassVar[str] = "online"
    """Whose weights go to later stages and evaluators: ``"online"`` or ``"teacher"``."""
    couples_batch: bool = False
    """Whether the loss couples the examples of a batch (contrastive, BatchNorm): refuses gradient accumulation."""
    groups: tuple[Group, ...] = (Group(match=r".*/(bias|scale)", decay=False),)
    """The method's official optimiser groups; what matches none is trained with decay.

    These, ``couples_batch``, ``teacher``, ``teacher_init`` and ``transfer`` may depend on options: then an instance has
    its own.
    """
    views: ClassVar[type[Views]]

    backbone: Backbone

    def targets(self, batch: Batch, ctx: Context) -> Any:
        """Targets of the loss, computed on the EMA copy and outside the gradient. Changes of state are dropped."""
        return None

    @abc.abstractmethod
    def loss(self, batch: Batch, targets: Any, ctx: Context) -> Loss:
        """The loss to minimise, over the global batch."""

    def predict(self, batch: Batch, ctx: Context, *, want: Sequence[str]) -> dict[str, Any]:
        """The outputs ``want`` (from :data:`OUTPUTS`) for ``batch["image"]`` uint8 [B H W C]."""
        return {"features": self.backbone(batch["image"], ctx)}

    def project(self) -> None:
        """Called on the new parameters after every update; may assign to them (CLIP clamps its temperature)."""

    def closed_form(self, batch: Mapping[str, Any]) -> int:
        """Counter A: FLOPs of one training step on a batch of these shapes, from a formula; a check of the others.

        Matrix products and convolutions only, 2 FLOPs a multiply-add, all devices together.

        Args:
            batch: Arrays or ``jax.ShapeDtypeStruct`` by name of the input.

        Raises:
            NotImplementedError: There is no formula.
        """
        raise NotImplementedError(f"{type(self).__name__} has no closed form")

    def teacher_decay(self, ctx: Context) -> Float[Array, ""]:
        """EMA decay at this step. Required iff ``teacher`` is not empty."""
        raise NotImplementedError(f"{type(self).__name__} has a teacher and must define teacher_decay")


__all__ = ["OUTPUTS", "DatasetInfo", "Group", "Objective", "Views"]
