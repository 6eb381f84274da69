"""The first charts and the hyperparameters of TensorBoard, read back from a file by TensorBoard's own code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from configs.compose import compose_pretrain
from pretrain.reporting.metrics import MetricsRow, ProbeResult
from pretrain.reporting.overview import LAYOUT, hyperparameters
from pretrain.reporting.tensorboard import Board
from tests.pretrain.reporting.test_tensorboard import NAMED, NUMBERS

PROBE = ProbeResult("vision", 0.25, 0.5, 0.75, 1.0, k=20, train_samples=50, test_samples=20)


def written(folder: Path, *overrides: str) -> EventAccumulator:
    """A file of a run with one row and one probe."""
    config = compose_pretrain(list(overrides))
    board = Board(folder, 0, config.is_mixture)
    board.write_config(0, config, "a: 1")
    board.write(MetricsRow(step=1, modality="vision", **NUMBERS, loss_scale=1.0, **NAMED))
    board.write_probe(1, PROBE)
    board.close()
    return EventAccumulator(str(folder)).Reload()


def read_layout(events: EventAccumulator) -> Layout:
    [event] = events.Tensors("custom_scalars__config__")
    return Layout.FromString(event.tensor_proto.string_val[0])


def session(events: EventAccumulator, part: str) -> HParamsPluginData:
    content = events.SummaryMetadata(f"_hparams_/{part}").plugin_data.content
    return HParamsPluginData.FromString(content)


def test_loss_probe_and_health_come_first(tmp_path: Path) -> None:
    layout = read_layout(written(tmp_path))
    assert [category.title for category in layout.category] == [*LAYOUT]
    assert [chart.title for chart in layout.category[0].chart][:2] == ["loss", "probe: linear"]
    assert layout.category[1].title == "health"


@pytest.mark.parametrize("overrides", [[], ["recipe=mixture_base"]], ids=["one modality", "mixture"])
def test_every_line_of_a_chart_has_figures_and_the_loss_has_one(tmp_path: Path, overrides: list[str]) -> None:
    events = written(tmp_path, *overrides)
    tags = events.Tags()["scalars"]
    charts = {chart.title: chart.multiline.tag for category in read_layout(events).category for chart in category.chart}
    shown = {title: [tag for pattern in patterns for tag in tags if re.match(pattern, tag)]
             for title, patterns in charts.items()}  # fmt: skip
    assert all(any(re.match(pattern, tag) for tag in tags) for patterns in charts.values() for pattern in patterns)
    assert shown["loss"] == ["loss/vision" if overrides else "loss"]


@pytest.mark.parametrize("overrides", [["optimizer.lr=0.003"], ["recipe=mixture_base", "optimizer.lr=0.003"]])
def test_the_hparams_tab_is_filled(tmp_path: Path, overrides: list[str]) -> None:
    events = written(tmp_path, *overrides)
    begin = session(events, "session_start_info").session_start_info.hparams
    assert begin["optimizer.lr"].number_value == 0.003 and begin["model.norm"].string_value in ("null", "pre")
    assert begin["recipe"].string_value == ("mixture_base" if len(overrides) > 1 else "demo")
    assert {"vision.patch_size", "train.steps", "batch.global"} <= set(begin) and "run.dir" not in begin
    experiment = session(events, "experiment").experiment
    results = [info.name.tag for info in experiment.metric_infos]
    tags = set(events.Tags()["scalars"])
    assert len(tags & set(results)) == 4, "results of the row and the probe"
    assert session(events, "session_end_info").session_end_info.status == 1, "success"


def test_a_session_that_is_killed_has_no_end(tmp_path: Path) -> None:
    board = Board(tmp_path, 0)
    board.write_config(0, compose_pretrain([]), "a: 1")
    events = EventAccumulator(str(tmp_path)).Reload()
    assert session(events, "session_start_info").session_start_info.hparams["recipe"].string_value == "demo"
    with pytest.raises(KeyError):
        session(events, "session_end_info")
    board.close()


def test_credentials_are_no_hyperparameters() -> None:
    config = compose_pretrain(["recipe=mixture_base", "mixture.vision.shards=https://me:secret@host/x"])
    assert hyperparameters(config)["mixture.vision.shards"] == "https://***@host/x"
