"""A world of plugins outside this repository: two distributions that exist in a temporary folder only."""

from __future__ import annotations

import sys
import textwrap

import pytest

PLUGINS = """
    from __future__ import annotations

    import dataclasses

    from flax import nnx

    from spendflops.contracts.backbone import Backbone
    from spendflops.contracts.dataset import Dataset
    from spendflops.contracts.evaluator import Evaluator
    from spendflops.contracts.objective import Objective, Views
    from spendflops.contracts.types import DatasetInfo

    class Flat(Backbone):
        def __init__(self, *, rngs: nnx.Rngs, width: int = 4, slope: float = 1.0, sides: tuple[int, int] = (8, 8),
                     pool: str = "mean", bias: bool = True, name: str | None = None):
            self.width = width

        def __call__(self, images, ctx, *, levels=()):
            return images

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class PullViews(Views):
        flip: float = 0.5

        def __call__(self, sample, rng, spec):
            return {"image": sample["image"].decode()}

    class Pull(Objective):
        inputs = {"image": "uint8 B H W C"}
        views = PullViews

        def __init__(self, backbone: Backbone, *, info: DatasetInfo, rngs: nnx.Rngs, force: float = 1.0):
            self.backbone = backbone

        def loss(self, batch, targets, ctx):
            return None

    class Twice(Pull):
        pass

    class Loose(Pull):
        def __init__(self, backbone, *, info, rngs, **kwargs):
            pass

    class Dots(Dataset):
        info = DatasetInfo(name="dots", features={"image": "uint8 H W C"})

        def __init__(self, *, path: str | None = None, size: int = 8):
            self.path = path
            if size < 0:
                raise ValueError("a negative size")

        def source(self, split, *, features):
            return []

    class Count(Evaluator):
        protocol = "count/1"
        primary = "count"

        def __init__(self, *, top: int = 1):
            self.top = top

        def preprocess(self, *, role, info, spec):
            return None

        def step(self, predictions, batch, ctx):
            return {}

        def result(self, merged, rows, *, info):
            return {}
"""

ENTRIES = """
    [spendflops.backbones]
    flat = tiny_plugins:Flat

    [spendflops.objectives]
    pull = tiny_plugins:Pull
    twice = tiny_plugins:Twice
    loose = tiny_plugins:Loose
    broken = tiny_broken:Broken

    [spendflops.datasets]
    dots = tiny_plugins:Dots

    [spendflops.evaluators]
    count = tiny_plugins:Count

    [spendflops.gin]
    tiny = tiny_package.presets
"""

METHOD = """
    pulled/Stage.objective = @objectives.pull
    pulled/Stage.optimizer = @optim.sgd()
    pulled/Stage.batch_size = 16
    pulled/optim.sgd.lr = 0.5
    pulled/objectives.pull.force = 2.0
"""

RECIPE = """\
Recipe.stages = (@pull/Stage(),)
Recipe.budget = '1e6'
Stage.backbone = @backbones.flat
Stage.dataset = @datasets.dots()
pull/Stage.objective = @objectives.pull
pull/Stage.views = @objectives.pull.views()
pull/Stage.optimizer = @optim.sgd()
pull/Stage.batch_size = 8
pull/optim.sgd.lr = 0.1
pull/objectives.pull.force = 3
"""
"""A recipe without a mistake."""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The folder of the user, who has two distributions of plugins installed."""
    site, user = tmp_path / "site", tmp_path / "user"
    user.mkdir()
    write(site / "tiny_plugins.py", PLUGINS)
    write(site / "tiny_broken.py", "import a_module_that_is_not_there\n")
    write(site / "tiny-1.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    write(site / "tiny-1.0.dist-info" / "entry_points.txt", ENTRIES)
    write(site / "tiny_package" / "__init__.py", "raise ImportError('presets are found without an import')\n")
    write(site / "tiny_package" / "presets" / "methods" / "pulled.gin", METHOD)
    write(site / "other-2.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: other\nVersion: 2.0\n")
    write(site / "other-2.0.dist-info" / "entry_points.txt", "[spendflops.objectives]\ntwice = other_plugins:Twice\n")
    write(site / "other_plugins.py", "from tiny_plugins import Pull\n\n\nclass Twice(Pull):\n    pass\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(user)
    yield user
    for name in [n for n in sys.modules if n.startswith(("tiny_", "other_plugins"))]:
        del sys.modules[name]


@pytest.fixture
def load_text(world):
    """Loads ``recipe.gin`` with the given text."""
    from spendflops import config

    def load(text=RECIPE, *bindings, root="Recipe", **names):
        (world / "recipe.gin").write_text(text)
        return config.load(config.compose(gin_files=["recipe.gin"], bindings=bindings, **names), root=root)

    return load


@pytest.fixture
def recipe_text():
    return RECIPE
