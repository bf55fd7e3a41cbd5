"""TensorBoard events of a run: every scalar over steps and over FLOPs, and its settings with its scores for HParams.

TensorBoard has no axis of FLOPs. So a second stream, ``events/by_mflops``, holds the same scalars under names that end
with " over MFLOPs", and its "step" is the number of mega FLOPs that the run has spent: whole numbers of 64 bits last up
to 9e24 FLOPs. Scalars are float32 in these files: exact numbers are in ``metrics.jsonl`` and ``result.json``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spendflops.engine.describe import NAME

FOLDER, BY_FLOPS, UNIT, SUFFIX = "events", "by_mflops", 10**6, " over MFLOPs"
LARGEST = 2**63 - 1


class Events:
    """The event files of a run, opened when something is written.

    Args:
        folder: The run directory.
    """

    def __init__(self, folder: Path):
        self._folder = folder / FOLDER
        self._writers: dict[str, Any] = {}

    def scalars(self, values: Mapping[str, float], *, step: int, flops: int | None) -> None:
        """Scalars by tag after ``step`` steps; ``flops`` is what the run has spent; None: no second stream."""
        self._scalars("", values, step)
        if flops is not None:
            over = {f"{tag}{SUFFIX}": value for tag, value in values.items()}
            self._scalars(BY_FLOPS, over, min(flops // UNIT, LARGEST))

    def outcome(self, config: Mapping[str, Any], result: Mapping[str, Any], *, trial: str) -> None:
        """The final scores over steps and FLOPs, and, for the HParams plugin, the settings that they belong to.

        Args:
            config: The recipe as described.
            result: Of the run.
            trial: Its name.
        """
        from tensorboard.plugins.hparams import metadata, plugin_data_pb2, summary_v2

        step = result["stages"][-1]["steps"]
        spent = result["flops"]["pretrain"] + result["flops"]["transfer"]
        scores = {f"score/{s['evaluation']}/{s['primary']}": s["values"][s["primary"]] for s in result["scores"]}
        self.scalars(scores, step=step, flops=spent)
        self.scalars({"score/flops": float(spent)}, step=step, flops=None)
        self._write("", summary_v2.hparams_pb(dict(settings(config)), trial_id=trial))
        ended = plugin_data_pb2.SessionEndInfo(status="STATUS_SUCCESS", end_time_secs=time.time())
        described = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=ended))
        summary = type(summary_v2.hparams_pb({}))()
        summary.value.add(tag=metadata.SESSION_END_INFO_TAG, metadata=described, tensor=metadata.NULL_TENSOR)
        self._write("", summary)

    def close(self) -> None:
        """Flushes what was written."""
        for writer in self._writers.values():
            writer.close()

    def _scalars(self, stream: str, values: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        found = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(stream, Summary(value=found), step=step)

    def _write(self, stream: str, summary: Any, *, step: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if stream not in self._writers:
            self._writers[stream] = EventFileWriter(str(self._folder / stream))
        self._writers[stream].add_event(Event(wall_time=time.time(), step=step, summary=summary))


def settings(config: Mapping[str, Any]) -> Iterator[tuple[str, bool | float | str]]:
    """The options of a recipe that are one word or number, with their path for a name."""
    for key in ("budget", "seed"):
        yield from _flat(config.get(key), key)
    stages = config["stages"]
    for number, stage in enumerate(stages, 1):
        yield from _flat(stage, "" if len(stages) == 1 else f"stage {number}")


def _flat(value: Any, name: str) -> Iterator[tuple[str, bool | float | str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, name if key == NAME else f"{name}.{key}".strip("."))
    elif isinstance(value, bool | int | float | str):
        yield name or "stage", value
