"""Sources of other tools, from the files to a run: built and validated by the commands, trained for three steps."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pyarrow import parquet

from data_shards.shards.index import load_index
from tests.data_shards.shard_tools import command
from tests.data_shards.sources.tables.test_manifests import pictures
from tests.data_shards.sources.tables.test_parquet_media import image, table
from tests.data_shards.sources.tars.test_tars import other_tool
from tests.data_shards.sources.test_recordings import librispeech
from tests.integration.made_up import tiny
from tests.integration.processes import launch
from tests.integration.runs import rows

pytestmark = pytest.mark.slow
COUNT = 300


def built(output: Path, *keys: str, samples: int = COUNT) -> Path:
    """The shards that `shards build` makes and `shards validate` finds nothing wrong in."""
    done = command("build", f"output={output}", *keys)
    assert done.returncode == 0, done.stderr
    done = command("validate", f"shards={output}", "deep=true")
    assert done.returncode == 0, done.stdout
    assert load_index(str(output)).samples == samples
    return output


def parquet_images(folder: Path) -> Path:
    """Images with bytes and the names of their classes, as Hugging Face writes them."""
    folder.mkdir()
    parquet.write_table(table([(image(i), i % 3) for i in range(COUNT)]), folder / "a.parquet", row_group_size=100)
    return built(folder / "shards", "source=parquet", f"input={folder}/a.parquet")


def foreign_tars(folder: Path) -> Path:
    """A WebDataset of another tool, with gzip members and mixed-case extensions."""
    return built(folder / "shards", "source=webdataset", f"input={other_tool(folder, 60)}", samples=60)


def csv_manifest(folder: Path) -> Path:
    """Images that a CSV names."""
    rows = [f"pictures/{i}.png,{['cat', 'dog', 'emu'][i % 3]}" for i in range(40)]
    (pictures(folder, 40) / "labels.csv").write_text("\n".join(["path,label", *rows]))
    return built(folder / "shards", "source=imagefolder", f"input={folder}/labels.csv", samples=40)


def train(modality: str, shards: list[Path], run: Path) -> None:
    """Three steps of all data sets."""
    weights = ",".join("1" * len(shards))
    arguments = [
        *tiny(modality, 6, 6), f"data.shards=[{','.join(map(str, shards))}]", f"data.weights=[{weights}]",
        f"run.dir={run}", "train.steps=3", "log.every=1", "precision=fp32", "data.workers=0",
    ]  # fmt: skip
    done = launch(1, "--module", "pretrain.train", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [row["step"] for row in rows(run)] == [1, 2, 3] and all(math.isfinite(row["loss"]) for row in rows(run))
    assert rows(run)[-1]["samples"] == 18 and rows(run)[-1]["bad_samples"] == 0


def test_images_are_trained(tmp_path):
    shards = [parquet_images(tmp_path / "parquet"), foreign_tars(tmp_path / "tars"), csv_manifest(tmp_path / "csv")]
    train("vision", shards, tmp_path / "run")


def test_librispeech_is_trained(tmp_path):
    folder = librispeech(tmp_path / "LibriSpeech")
    train("speech", [built(tmp_path / "shards", "source=audiofolder", f"input={folder}", samples=6)], tmp_path / "run")
