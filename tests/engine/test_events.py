"""TensorBoard events, read back: every scalar over steps and over FLOPs, settings and final scores for HParams."""

import subprocess
import sys

import enginelib
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from spendflops.engine.events import BY_FLOPS, FOLDER, SUFFIX, Events, settings
from spendflops.engine.loop import run_recipe
from spendflops.engine.metrics import MetricsLog


def stream(folder, name=""):
    found = EventAccumulator(str(folder / FOLDER / name))
    found.Reload()
    return found


def test_rows_stand_over_steps_and_over_flops(tmp_path):
    log = MetricsLog(tmp_path, quiet=True)
    stage = log.stage("mae", steps=4, flops_per_step=10**8, examples_per_step=8)
    for step in (2, 4):
        stage.row(step, {"loss": 1 / step}, flops=step * 10**8)
    log.close()
    over_steps = [(e.step, e.value) for e in stream(tmp_path).Scalars("mae/loss")]
    over_flops = [(e.step, e.value) for e in stream(tmp_path, BY_FLOPS).Scalars(f"mae/loss{SUFFIX}")]
    assert over_steps == [(2, 0.5), (4, 0.25)] and over_flops == [(200, 0.5), (400, 0.25)]
    # Tags that are the same in both would share an axis in TensorBoard.
    tags = [set(stream(tmp_path, name).Tags()["scalars"]) for name in ("", BY_FLOPS)]
    assert tags[1] == {f"{tag}{SUFFIX}" for tag in tags[0]} and not tags[0] & tags[1]


@pytest.mark.parametrize(("flops", "step"), [(9 * 10**24, 9 * 10**18), (10**26, 2**63 - 1)])
def test_large_runs_fit(tmp_path, flops, step):
    events = Events(tmp_path)
    events.scalars({"loss": 1.0}, step=1, flops=flops)
    events.close()
    assert stream(tmp_path, BY_FLOPS).Scalars(f"loss{SUFFIX}")[0].step == step


def test_a_run_ends_with_its_settings_and_scores(tmp_path):
    result = run_recipe(enginelib.recipe(evaluations=(enginelib.knn(),)), tmp_path / "run", quiet=True)
    found = stream(tmp_path / "run")
    (score,) = found.Scalars("score/knn/accuracy")
    assert score.step == 6 and score.value == pytest.approx(result["scores"][0]["values"]["accuracy"])
    (over,) = stream(tmp_path / "run", BY_FLOPS).Scalars(f"score/knn/accuracy{SUFFIX}")
    assert over.step == result["flops"]["pretrain"] // 10**6
    assert found.Scalars("score/flops")[0].value == pytest.approx(result["flops"]["pretrain"])
    contents = found.PluginTagToContent("hparams")
    started = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
    assert started.group_name == "run"
    values = {name: value.WhichOneof("kind") for name, value in started.hparams.items()}
    assert started.hparams["objective"].string_value == "objectives.mae" and values["batch_size"] == "number_value"
    assert started.hparams["optimizer.lr"].number_value == 1e-3 and started.hparams["budget"].string_value == "6 steps"
    assert metadata.parse_session_end_info_plugin_data(contents[metadata.SESSION_END_INFO_TAG]).status == 1


def test_settings_of_several_stages_tell_them_apart():
    found = dict(settings({"seed": 3, "budget": None, "stages": [{"batch_size": 8, "init": None}, {"batch_size": 4}]}))
    assert found == {"seed": 3, "stage 1.batch_size": 8, "stage 2.batch_size": 4}


def test_writing_needs_no_tensorflow(tmp_path):
    code = (
        "import sys; sys.modules['tensorflow'] = None; import pathlib; from spendflops.engine.events import Events\n"
        f"e = Events(pathlib.Path({str(tmp_path)!r})); r = {{'stages': [{{'steps': 1}}], 'scores': [], "
        "'flops': {'pretrain': 1, 'transfer': 0}}\n"
        "e.outcome({'stages': [{}]}, r, trial='x'); e.close()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
