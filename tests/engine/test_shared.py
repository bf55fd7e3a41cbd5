"""The same model on other data is the same program, traced once; what a step may read of the data keeps them apart."""

import dataclasses
import functools
from typing import ClassVar

import jax.numpy as jnp
from enginelib import METHODS, VIT, stage
from spendflops_plugins.mae import MAEViews

from spendflops.contracts.dataset import Dataset
from spendflops.contracts.objective import Objective
from spendflops.contracts.types import DatasetInfo, Loss
from spendflops.engine.build import build_stage
from spendflops.engine.optim import adamw
from spendflops.parts.nn.linear import Linear


class Data(Dataset):
    """Some classes of pictures that are on no disk."""

    def __init__(self, classes, name="data"):
        features = {"image": "uint8 H W C", "label": "int32"}
        self.info = DatasetInfo(name=name, features=features, classes=tuple(map(str, range(classes))))
        self.described = {"classes": classes, "name": name}

    def source(self, split, *, features):
        raise LookupError(split)


class Scaled(Objective):
    """A loss that is scaled by the number of classes, without a parameter whose shape would say it."""

    inputs: ClassVar = {"image": "uint8 B H W C"}
    views = MAEViews

    def __init__(self, backbone, *, info, rngs):
        self.backbone = backbone
        self.head = Linear(backbone.dim, 2, rngs=rngs)
        self.keep(len(info.classes))

    def keep(self, classes):
        self.scale = float(classes)

    def loss(self, batch, targets, ctx):
        return Loss(value=self.scale * jnp.mean(self.head(self.backbone(batch["image"], ctx).summary)))


@dataclasses.dataclass
class Number:
    """Has no hash."""

    value: float


class Kept(Scaled):
    """The same with an attribute that cannot be looked up."""

    def keep(self, classes):
        self.scale = Number(float(classes))

    def loss(self, batch, targets, ctx):
        return Loss(value=self.scale.value * jnp.mean(self.head(self.backbone(batch["image"], ctx).summary)))


def train(*args, **options):
    return build_stage(stage(*args, **options)).train


def test_other_data_are_no_other_program():
    one, two = train("mae", dataset=Data(3)), train("mae", dataset=Data(5, name="others"))
    assert one is two
    three, five = (train("supervised", dataset=Data(n)) for n in (3, 5))
    assert three is not five
    # 2 FLOPs x 8 images x 16 wide x 2 classes, forward and for both gradients.
    assert five.cost().total - three.cost().total == 3 * 2 * 8 * 16 * 2


def test_a_number_that_a_step_reads_keeps_them_apart():
    three, five = (train("mae", objective=Scaled, dataset=Data(n)) for n in (3, 5))
    again = train("mae", objective=Scaled, dataset=Data(3, name="others"))
    assert three is again and three is not five and three.cost().total == five.cost().total


def test_a_module_that_cannot_be_looked_up_shares_nothing():
    one, two = (train("mae", objective=Kept, dataset=Data(3, name=n)) for n in ("a", "b"))
    assert one is not two and one.family is None and one.cost() == two.cost()


def test_batches_labels_and_backbones_are_other_programs():
    given = train("mae")
    for other in ({"batch_size": 16}, {"backbone": functools.partial(VIT, depth=2)}):
        assert train("mae", **other).family != given.family
    named = train("mae", name="other")
    assert named is not given and named.name == "other/train" and named.family == given.family


def test_learning_rates_are_one_family_and_cost_the_same():
    slow, fast = (train("mae", optimizer=adamw(lr=lr, weight_decay=0.05)) for lr in (1e-3, 1e-4))
    assert slow is not fast and slow.family == fast.family
    assert slow.cost() == fast.cost()
    assert train("mae", optimizer=adamw(lr=1e-3, weight_decay=0.0)).family != slow.family
    assert train("mae", objective=functools.partial(METHODS["mae"], mask_ratio=0.5)).family != slow.family
