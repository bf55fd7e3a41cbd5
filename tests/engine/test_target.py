"""Programs compiled for TPUs that are not here. Without libtpu, a device of this machine stands for theirs."""

from __future__ import annotations

import importlib.metadata
import json

import jax
import pytest
from enginelib import recipe, stage
from jax.experimental import topologies
from jax.sharding import AbstractMesh

from spendflops.accounts.flops import Cost
from spendflops.contracts.errors import ConfigError
from spendflops.engine import target
from spendflops.engine.build import build, build_stage
from spendflops.engine.program import Program
from spendflops.study.plan import plan
from spendflops.study.report import planned


@pytest.fixture
def known(monkeypatch):
    """A library that knows one topology."""
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2.3" if name == "libtpu" else version(name))

    def described(name, *, platform):
        if name != "v3:1x1x1":
            raise RuntimeError(f"INVALID_ARGUMENT: no {name}\nand a trace")
        return topologies.TopologyDescription(jax.devices()[:1])

    monkeypatch.setattr(topologies, "get_topology_desc", described)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("v3", "'v3' is no target"),
        ("v3:4", "'v3:4' is no target"),
        ("v3:0x2x1", "'v3:0x2x1' is no target"),  # would end the process inside the library
        ("v7x:2x2x1", "unknown generation of TPUs 'v7x'.*did you mean 'tpu7x'"),
        (
            "v3:3x3x1",
            "libtpu 1.2.3 does not compile for v3:3x3x1\n  why: INVALID_ARGUMENT: no v3:3x3x1\n  fix: .*v2, v3",
        ),
    ],
)
def test_a_target_that_cannot_be_says_what_can(name, reason, known):
    with pytest.raises(ConfigError, match=reason):
        target.named(name)


def test_without_the_library_it_says_how_to_install_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ConfigError, match=r"pip install 'spendflops\[tpu-plan\]'"):
        target.named("v3:4x8x1")


def test_a_plan_names_the_target_and_what_it_depends_on(known):
    body = plan(build(recipe(stage("mae"))), target=target.named(" V3:1x1x1 "))
    assert body["target"]["topology"] == "v3:1x1x1" and body["target"]["devices"] == 1
    assert set(body["target"]["versions"]) == {"libtpu", "jax", "jaxlib"} and body["target"]["kind"] == "cpu"
    train = body["programs"][0]
    assert train["hardware_flops_per_call"] == train["flops_per_call"] > 0 and train["unknown"] == []
    assert json.loads(json.dumps(body["target"])) == body["target"]
    text = planned.recipe({**body, "notes": []}, "mae")
    assert "compiled for v3:1x1x1: 1 devices, cpu; nothing ran (libtpu 1.2.3, jax" in text


def test_what_is_not_counted_is_named(known, monkeypatch):
    cost = Cost(counter="hlo/1", unknown=("custom-call tpu_custom_call",))
    monkeypatch.setattr(Program, "hardware_cost", property(lambda program: cost))
    body = plan(build(recipe(stage("mae"))), compiled=True)
    assert body["programs"][0]["hardware_flops_per_call"] is None
    text = planned.recipe({**body, "notes": []}, "mae")
    assert "compiled: unknown FLOPs" in text and "not counted: custom-call tpu_custom_call" in text


def test_programs_of_two_targets_are_two(known):
    here = build_stage(stage("mae")).train
    there = target.named("v3:1x1x1").program(here)
    assert there.digest != here.digest and there.devices == 1


def test_a_batch_is_split_over_all_devices():
    chips = target.Target(name="v3:2x2x1", mesh=AbstractMesh((8, 1), ("data", "fsdp")))
    moved = chips.program(build_stage(stage("mae")).train)  # 8 examples
    state, inputs, _ = moved.args
    assert moved.devices == 8
    assert {x.sharding.spec for x in jax.tree.leaves(inputs)} == {jax.sharding.PartitionSpec(("data", "fsdp"))}
    assert {x.sharding.spec for x in jax.tree.leaves(state)} == {jax.sharding.PartitionSpec()}
    with pytest.raises(ConfigError, match="a batch of 8 cannot be split over the 16 devices of v3:2x2x2"):
        target.Target(name="v3:2x2x2", mesh=AbstractMesh((16, 1), ("data", "fsdp"))).program(
            build_stage(stage("mae")).train
        )


@pytest.mark.parametrize("name", ["v3:1x2x1", "v5e:2x2"])
def test_the_compiler_for_tpus_keeps_every_flop(name):
    pytest.importorskip("libtpu")
    there = target.named(name).program(build_stage(stage("mae")).train)
    assert there.devices == 4 and there.memory().peak > 0
    assert there.cost(hardware=True).phases == there.cost().phases
