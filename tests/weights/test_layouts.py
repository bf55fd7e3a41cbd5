"""Every layout: a file in, the same file out, and one error that says all that does not fit."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins"))

import golden
import jax
import ml_dtypes
import numpy as np
import pytest
from layoutlib import CASES, in_memory

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.contracts.layout import BACKBONE, Rule
from spendflops.engine import convert
from spendflops.engine.state import flatten
from spendflops.parts.nn.positions import resize_table
from spendflops.weights import layout

every = pytest.mark.parametrize("name", CASES)


def same(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes() for k in a
    )


@every
def test_a_file_is_recognised_and_comes_out_as_it_went_in(name):
    case = CASES[name]
    file = case.file()
    found, values = case.read(file)
    assert case.layout in (found.name, *found.also)
    assert set(values) == set(case.target.shapes) and all(v.dtype == np.float32 for v in values.values())
    written, left = case.write(values)
    assert same(written, file) and left == []


@every
def test_a_model_goes_out_and_comes_back(name):
    case = CASES[name]
    values = case.values()
    assert same(case.read(case.write(values)[0], using=case.layout)[1], values)


@every
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_files_of_half_precision_lose_nothing(name, dtype):
    case = CASES[name]
    file = case.file(dtype)
    values = case.read(file, using=case.layout)[1]
    written = {key: value.astype(dtype) for key, value in case.write(values)[0].items()}
    assert same(written, file)


def some(name):
    """(case, file, some of its keys, those that must hold what the model makes itself): others in every case."""
    case = CASES[name]
    file = case.file()
    plain = convert.layouts(case.layout)[case.layout]
    found = layout.match("x", plain, in_memory(file), case.target, weights=None, resize=None)
    return case, file, [*list(file)[list(CASES).index(name) % 4 :: 4], *found.constants], found.constants


@every
def test_one_renamed_key_is_named_with_its_nearest_name(name):
    case, file, keys, constants = some(name)
    for key in keys:
        other = key[:-1] + {"t": "d", "s": "z"}.get(key[-1], "q")
        missing = "" if key in constants else f" .*did you mean '{key}', which is missing"
        with pytest.raises(DataError, match=f"{other} .*no rule{missing}"):
            case.read({(other if k == key else k): v for k, v in file.items()}, using=case.layout)


@every
def test_every_key_is_needed_and_no_other_is_let_in(name):
    case, file, keys, constants = some(name)
    for key in (key for key in keys if key not in constants):
        with pytest.raises(DataError, match=re.escape(key)):
            case.read({k: v for k, v in file.items() if k != key}, using=case.layout)
    with pytest.raises(DataError, match=r"1 differences[^$]*blocks\.0\.another\.weight \(3,\) in the file: no rule"):
        case.read({**file, "blocks.0.another.weight": np.zeros(3, np.float32)}, using=case.layout)


@every
def test_a_wrong_shape_is_named_on_both_sides(name):
    case, file, keys, _ = some(name)
    for key in keys:
        shape = (*file[key].shape[:-1], 231) if file[key].shape else (2, 2)
        with pytest.raises(DataError, match=re.escape(key)):
            case.read({**file, key: np.zeros(shape, np.float32)}, using=case.layout)


def test_an_unknown_layout_lists_those_that_are_known():
    case = CASES["timm"]
    with pytest.raises(DataError, match="no layout that is known") as error:
        case.read({f"conv{i}.w": np.zeros(3, np.float32) for i in range(9)})
    assert (
        "conv0.w" in error.value.why
        and "hf_vit_mae (Hugging Face ViTMAE" in error.value.why
        and error.value.exit_code == 3
    )
    with pytest.raises(DataError, match="no layout that is known"):
        case.read({})


def test_many_problems_are_one_error_and_like_ones_are_counted():
    case = CASES["timm"]
    file = case.file()
    more = {k.replace("blocks.1", f"blocks.{i}"): v for i in range(2, 9) for k, v in file.items() if "blocks.1." in k}
    with pytest.raises(DataError, match=r"84 differences") as error:
        case.read({**file, **more})
    assert "the model has no backbone/blocks/2/norm1/scale  (and 6 more like it)" in error.value.why
    assert len(error.value.why.splitlines()) == 13


def test_a_part_of_a_tensor_that_is_split_in_three():
    case = CASES["hf vit"]
    file = case.file()
    key = "vit.encoder.layer.1.attention.attention.key.bias"
    with pytest.raises(DataError, match=rf"belongs with {key}, which is not there"):
        case.read({k: v for k, v in file.items() if k != key})


WRAPPED = {
    "mae": ("model.", {"optimizer.state.0.exp_avg": np.zeros(3, np.float32)}),
    "simmim": ("model.", {"optimizer.state.0.exp_avg": np.zeros(3, np.float32)}),
    "timm": ("state_dict.", {"optimizer.state.0.exp_avg": np.zeros(3, np.float32)}),
    "openai clip": ("", {name: np.array(9) for name in ("input_resolution", "context_length", "vocab_size")}),
    "hf vit": ("module.", {}),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_are_taken_off_and_the_rest_is_ignored_with_a_reason(name):
    case, (prefix, rest) = CASES[name], WRAPPED[name]
    found, values = case.read({**{f"{prefix}{k}": v for k, v in case.file().items()}, **rest}, using=case.layout)
    assert same(values, case.read(case.file(), using=case.layout)[1])
    assert sorted(k for keys in found.ignored.values() for k in keys) == sorted(rest)


def checkpoint(case):
    """DINO's full checkpoint: student and teacher, the student's keys as DistributedDataParallel makes them."""
    student, teacher = case.file(seed=1), case.file(seed=2)
    center = teacher.pop("dino_loss.center")
    student.pop("dino_loss.center")
    return student, teacher, {
        **{f"student.module.{k}": v for k, v in student.items()},
        **{f"teacher.{k}": v for k, v in teacher.items()},
        "dino_loss.center": center,
        "optimizer.state.3.exp_avg": np.zeros(3, np.float32),
    }  # fmt: skip


def test_a_name_inside_and_outside_of_the_wrapper():
    case = CASES["mae"]
    file = {f"model.{k}": v for k, v in case.file().items()}
    with pytest.raises(DataError, match=r"norm\.weight and model\.norm\.weight in the file have one name"):
        case.read({**file, "norm.weight": file["model.norm.weight"]}, using="mae")


def test_dino_checkpoints_give_the_teacher_or_the_student():
    case = CASES["dino, free lengths"]
    student, teacher, file = checkpoint(case)
    for weights, wanted in ((None, teacher), ("teacher", teacher), ("online", student)):
        found, values = case.read(file, weights=weights)
        assert found.weights == (weights or "teacher")
        written = case.write(values)[0]
        assert np.array_equal(written.pop("dino_loss.center"), file["dino_loss.center"]) and same(written, wanted)
        assert any(reason.startswith("other weights of the file") for reason in found.ignored)
    bare, values = CASES["dino backbone"].read(file, using="dino")
    assert bare.weights == "teacher" and np.array_equal(values["backbone/norm/scale"], teacher["backbone.norm.weight"])
    with pytest.raises(DataError, match="has no teacher weights"):
        case.read({k: v for k, v in file.items() if not k.startswith("teacher.")}, weights="teacher", using="dino")


def test_prefixes_come_off_at_the_beginning_alone():
    # The official loader strips "backbone." wherever it stands.
    case = CASES["dino backbone"]
    file = {f"teacher.backbone.{k}": v for k, v in case.file().items()}
    odd = {k.replace("teacher.backbone.norm", "teacher.backbone.backbone.norm"): v for k, v in file.items()}
    with pytest.raises(DataError, match=r"backbone\.backbone\.norm\.weight"):
        case.read(odd, using="dino")


def test_lengths_that_are_fixed_must_be_one():
    case = CASES["dino"]
    file = case.file()
    file["head.last_layer.weight_g"] = np.full((24, 1), 1.5, np.float32)
    with pytest.raises(DataError, match="not the fixed tensor"):
        case.read(file)


@pytest.mark.parametrize("name", ["mae encoder", "mae", "hf vit mae"])
def test_fixed_tables_are_compared_not_loaded(name):
    case = CASES[name]
    file = case.file()
    for key in (k for k in file if "pos" in k):
        swapped = {**file, key: file[key].reshape(1, 17, 2, -1)[:, :, ::-1].reshape(file[key].shape)}
        with pytest.raises(DataError, match=f"{key} .*not the fixed tensor.*other values"):
            case.read(swapped)
        with pytest.raises(DataError, match=f"{key} .*not the fixed tensor.*\\(1, 26"):
            case.read({**file, key: np.zeros((1, 26, file[key].shape[-1]), np.float32)})


def test_a_backbone_alone_takes_its_part_of_a_larger_file():
    case, whole = CASES["mae encoder"], CASES["mae"].file()
    found, values = case.read(whole)
    assert set(values) == set(case.target.shapes)
    assert sum(map(len, found.ignored.values())) == len([k for k in whole if k.startswith(("decoder", "mask"))])
    assert all("without an objective" in reason for reason in found.ignored)


def test_a_file_without_the_parts_of_the_objective_does_not_fit_it():
    with pytest.raises(DataError, match=r"decoder/blocks/0/mlp/fc1/bias .*needs decoder_blocks\.0\.mlp\.fc1\.bias"):
        CASES["mae"].read(CASES["mae encoder"].file(), using="mae")


def test_options_that_no_tensor_shows():
    case = CASES["openai clip"]
    wrong = dataclasses.replace(case, backbone=case.backbone | {"gelu": "erf", "mean": (0.5, 0.5, 0.5)})
    with pytest.raises(DataError, match="2 differences") as error:
        wrong.read(case.file(), using="openai_clip")
    assert "mlp.gelu is 'erf', such files need 'quick'" in error.value.why
    assert "backbone.mean is (0.5" in error.value.why
    tower = dataclasses.replace(case, backbone=case.backbone | {"heads": 2})
    with pytest.raises(DataError, match="heads is 2, such files need 1"):
        tower.read(case.file(), using="openai_clip")


def test_a_config_beside_the_file_is_compared():
    case = CASES["hf clip"]
    content = in_memory(case.file(), config={"projection_dim": 24, "vision_config": {"layer_norm_eps": 1e-6}})
    with pytest.raises(DataError, match=r"vision_config\.layer_norm_eps = 1e-06, the model 1e-05"):
        layout.choose(convert.layouts("hf_clip"), content, case.target, weights=None, resize=None)


@pytest.mark.parametrize("value, what", [(np.nan, "not finite"), (np.inf, "not finite")])
def test_values_that_are_not_finite(value, what):
    case = CASES["timm"]
    file = case.file()
    file["blocks.1.mlp.fc2.bias"][3] = value
    with pytest.raises(DataError, match=rf"blocks\.1\.mlp\.fc2\.bias .*{what}"):
        case.read(file)


def test_float64_is_taken_where_nothing_is_lost_and_integers_never():
    case = CASES["timm"]
    file = case.file()
    assert same(case.read({k: v.astype(np.float64) for k, v in file.items()})[1], case.read(file)[1])
    with pytest.raises(DataError, match="loses precision"):
        case.read({**file, "norm.bias": file["norm.bias"].astype(np.float64) + 1e-12})
    with pytest.raises(DataError, match=r"norm\.bias .*is int64"):
        case.read({**file, "norm.bias": file["norm.bias"].astype(np.int64)})


def test_a_layout_without_names_for_a_part_of_the_backbone_is_refused():
    case = CASES["simmim"]
    with pytest.raises(ConfigError, match="has no name in the layout"):
        layout.export(convert.layouts("hf_vit")["hf_vit"], case.values(), case.target)


def test_parts_of_the_objective_without_names_are_left_out_and_said():
    case = CASES["mae"]
    arrays, left = layout.export(convert.layouts("timm")["timm"], case.values(), case.target)
    assert sorted(left) == sorted(p for p in case.target.shapes if not p.startswith(BACKBONE))
    assert set(arrays) == set(CASES["mae encoder"].keys)


def test_one_file_in_two_ways_needs_a_choice():
    case = CASES["timm"]
    plain = convert.layouts("timm")["timm"]

    class Turned(type(plain)):
        rules = (
            Rule(theirs=("norm.bias",), ours="backbone/norm/scale"),
            Rule(theirs=("norm.weight",), ours="backbone/norm/bias"),
            *(rule for rule in plain.rules if not rule.ours.startswith("backbone/norm/")),
        )

    with pytest.raises(DataError, match="can be read as a and as b"):
        layout.choose({"a": plain, "b": Turned()}, in_memory(case.file()), case.target, weights=None, resize=None)


def test_rules_that_take_a_tensor_twice_or_give_two_to_one_place():
    case = CASES["timm"]
    plain = convert.layouts("timm")["timm"]
    kept = tuple(rule for rule in plain.rules if rule.ours != "backbone/norm/bias")

    class Twice(type(plain)):
        rules = (*kept, Rule(theirs=("norm.weight",), ours="backbone/norm/bias"))

    class Both(type(plain)):
        rules = (*kept, Rule(theirs=("norm.bias",), ours="backbone/norm/scale"))

    file = case.file()
    without = {key: value for key, value in file.items() if key != "norm.bias"}
    for made, given, message in ((Twice, without, "to another"), (Both, file, "both make backbone/norm/scale")):
        with pytest.raises(DataError, match=message):
            layout.choose({"x": made()}, in_memory(given), case.target, weights=None, resize=None)


def test_the_two_layouts_of_clip_hold_the_same_model():
    ours, theirs = CASES["openai clip"], CASES["hf clip"]
    values = ours.values()
    a, b = ours.write(values)[0], theirs.write(values)[0]
    for at, tower in (("visual.transformer.resblocks.1", "vision_model"), ("transformer.resblocks.0", "text_model")):
        layer = f"{tower}.encoder.layers.{at[-1]}"
        for kind in ("weight", "bias"):
            joined = np.concatenate([b[f"{layer}.self_attn.{x}_proj.{kind}"] for x in "qkv"])
            assert np.array_equal(a[f"{at}.attn.in_proj_{kind}"], joined)
            assert np.array_equal(a[f"{at}.mlp.c_fc.{kind}"], b[f"{layer}.mlp.fc1.{kind}"])
    assert np.array_equal(a["visual.proj"], b["visual_projection.weight"].T)
    assert np.array_equal(a["text_projection"], b["text_projection.weight"].T)
    assert np.array_equal(a["visual.conv1.weight"], b["vision_model.embeddings.patch_embedding.weight"])


OFFICIAL = {
    "mae": ("mae", golden.MAE_KEYS, "convolution"),
    "simmim": ("simmim", golden.SIMMIM_KEYS, "convolution"),
    "viny": ("viny", golden.VINY_KEYS, "matrix"),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_weights_of_the_golden_runs_are_read_as_they_were_written(name):
    # G1, G2 and G3 hold with the weights that another reading of the official names gives.
    case, (using, renames, patches) = CASES[name], OFFICIAL[name]
    file = case.file()
    for key in (key for key in file if "pos_embed" not in key or name == "viny"):
        spelt = key.removeprefix("encoder.") if name == "viny" else key
        value = golden.fill(file[key].shape, spelt, vector=file[key].ndim == 1).astype(np.float32)
        file[key] = value
    values = case.read(file, using=using)[1]
    with jax.enable_x64(True):
        wanted, _ = golden.filled(case.definition.example, renames, patches=patches)
    for path, value in flatten(case.definition.params_of(wanted)).items():
        assert np.array_equal(values[path], np.asarray(value).astype(np.float32)), path


@pytest.mark.parametrize("sizes", [{"image_size": 48}, {"image_size": 64, "position_size": 48}])
def test_positions_are_resized_when_that_is_asked_for(sizes):
    case = dataclasses.replace(CASES["timm"], backbone={"positions": "learned"} | sizes)
    file = case.file()
    with pytest.raises(DataError, match=r"\(1, 17, 32\), the model has \(1, 37, 32\), another image size: .*--resize"):
        case.read(file, using="timm")
    values = case.read(file, using="timm", resize="torch_bicubic")[1]
    table = resize_table(file["pos_embed"][0, 1:], (4, 4), (6, 6), rule="torch_bicubic")
    assert np.array_equal(values["backbone/pos_embed"][0, 1:], table)
    assert np.array_equal(values["backbone/pos_embed"][0, 0], file["pos_embed"][0, 0])
    with pytest.raises(DataError, match="no square grid"):
        case.read({**file, "pos_embed": file["pos_embed"][:, :15]}, using="timm", resize="torch_bicubic")
    with pytest.raises(DataError, match=r"pos_embed in the file makes backbone/pos_embed \(1, 17, 16\)"):
        case.read({**file, "pos_embed": file["pos_embed"][..., :16]}, using="timm", resize="torch_bicubic")


def test_relative_positions_are_resized_but_for_the_rows_of_the_class_token():
    case = dataclasses.replace(CASES["simmim"], backbone=CASES["simmim"].backbone | {"image_size": 48})
    file, table = case.file(), "encoder.rel_pos_bias.relative_position_bias_table"
    values = case.read(file, resize="torch_bicubic")[1]["backbone/relative/table"]
    assert values.shape == (11 * 11 + 3, 4) and np.array_equal(values[-3:], file[table][-3:])
    assert np.array_equal(values[:-3], resize_table(file[table][:-3], (7, 7), (11, 11), rule="torch_bicubic"))


def test_fixed_positions_of_another_size_are_refused_whatever_is_asked():
    case = dataclasses.replace(CASES["mae encoder"], backbone={"image_size": 48})
    with pytest.raises(DataError, match="give the file's image size"):
        case.read(CASES["mae encoder"].file(), resize="torch_bicubic")


def test_a_model_that_such_files_cannot_describe_is_not_exported():
    case = dataclasses.replace(CASES["mae encoder"], backbone={"gelu": "tanh"})
    with pytest.raises(ConfigError, match=r"mlp\.gelu is 'tanh', such files need 'erf'"):
        case.write(case.values())
    other = dataclasses.replace(CASES["viny encoder"], layout="simmim")
    with pytest.raises(ConfigError, match=r"norm1\.eps is 1e-05"):
        other.write(other.values())
