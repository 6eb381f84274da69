"""A modality that is made up here trains for two steps in a copy of the tree.

The copy gets a folder of its own in data_shards/ and a network class, and is edited only where CONTRIBUTING says that a
modality is named: see `EDITS`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.integration.processes import ENVIRONMENT, ROOT

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "series"
NEW = {"series_samples.py": "data_shards/series/samples.py", "series_network.py": "models/series.py"}
EDITS = {
    "configs/schema_modalities.py": [
        ('Literal["vision", "speech", "text"]', 'Literal["vision", "speech", "text", "series"]'),
        (
            "@dataclass(config=STRICT)\nclass VisionMaskConfig",
            "@dataclass(config=STRICT)\nclass SeriesConfig(SampleConfig):\n"
            "    tokens: int = 16\n    masked: int = 6\n\n\n"
            "@dataclass(config=STRICT)\nclass VisionMaskConfig",
        ),
    ],
    "configs/schema.py": [
        (
            "    text: TextConfig = field(default_factory=TextConfig)\n",
            "    text: TextConfig = field(default_factory=TextConfig)\n"
            "    series: SeriesConfig = field(default_factory=SeriesConfig)\n",
        ),
        ("import MODALITIES,", "import MODALITIES, SeriesConfig,"),
    ],
    "configs/modality_config.py": [
        ("    text: TextConfig\n", "    text: TextConfig\n    series: SeriesConfig\n"),
        ("import Modality,", "import Modality, SeriesConfig,"),
    ],
    "configs/published.py": [
        (
            '    "text": Published(',
            '    "series": Published("pre", 1e-6, True, 0.0, "all", 2, "block", "layer", "none", 2.0, "mean"),\n'
            '    "text": Published(',
        )
    ],
    "data_shards/kinds.py": [
        (
            '        case "speech":\n',
            '        case "series":\n'
            "            return Kind(\n"
            '                modality=modality, noun="series", extensions=("i8",), length=len,\n'
            '                decode=lambda data, _: len(data), unit=Unit("values", 1, "values", 1),\n'
            "                fewest_tokens=1, samples=_series_samples,\n"
            "            )\n"
            '        case "speech":\n',
        ),
        (
            "def kind_of(",
            "def _series_samples(config: ModalityConfig) -> SampleKind:\n"
            "    from data_shards.series.samples import SeriesSamples\n\n"
            "    return SeriesSamples(config)\n\n\n"
            "def kind_of(",
        ),
    ],
    "models/build.py": [
        (
            '        case "speech":\n',
            '        case "series":\n            return SeriesNetwork\n        case "speech":\n',
        ),
        ("from models.speech import", "from models.series import SeriesNetwork\nfrom models.speech import"),
    ],
}
PROGRAM = """
import sys
from dataclasses import replace
from configs.checks.run import check
from configs.schema import PretrainConfig
from configs.schema_objective import TeacherConfig
from configs.schema_training import BatchConfig, DataConfig, ModelConfig
from configs.schema_running import RunConfig, LogConfig, TrainConfig, CheckpointConfig
from pretrain.engine import distributed
from pretrain.loop import pretrain

shards, run = sys.argv[1:]
config = PretrainConfig(
    recipe="series", modality="series", model=ModelConfig(layers=2, width=32, heads=2, ffn=64),
    teacher=TeacherConfig(layers=2), batch=BatchConfig(global_=8, micro=4), train=TrainConfig(steps=2),
    data=DataConfig(shards=shards, workers=1), run=RunConfig(dir=run), log=LogConfig(every=1, peak_tflops=1.0),
)
device = distributed.start()
check(config, 1)
assert pretrain(config, device)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the packages with the modality in it."""
    copy = tmp_path_factory.mktemp("tree")
    for package in ("configs", "data_shards", "models", "pretrain"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "data_shards/series").mkdir()
    (copy / "data_shards/series/__init__.py").touch()
    for ours, theirs in NEW.items():
        shutil.copy(HERE / ours, copy / theirs)
    for name, edits in EDITS.items():
        text = (copy / name).read_text()
        for before, after in edits:
            assert text.count(before) == 1, f"{name}: {before!r} is there {text.count(before)} times"
            text = text.replace(before, after)
        (copy / name).write_text(text)
    return copy


def in_tree(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=tree, capture_output=True, text=True, timeout=300
    )


def test_it_trains_and_its_shards_are_indexed_and_described(tree, tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    for number in range(24):
        values = (np.arange(64) * (1 + number % 3) % 127).astype(np.int8)
        (files / f"{number:03d}.i8").write_bytes(values.tobytes())
    shards = tmp_path / "shards"
    shards.mkdir()
    names = sorted(path.name for path in files.iterdir())
    tar = ["tar", "--format=ustar", "-cf", str(shards / "train-000000.tar"), "-C", str(files), *names]
    subprocess.run(tar, check=True)

    indexed = in_tree(tree, "-m", "data_shards", "index", f"shards={shards}")
    assert indexed.returncode == 0, indexed.stderr
    described = in_tree(tree, "-m", "data_shards", "info", f"shards={shards}").stdout
    assert "24" in described and "longest 64 values" in described
    assert (
        "as their index says" in in_tree(tree, "-m", "data_shards", "validate", f"shards={shards}", "deep=true").stdout
    )

    run = tmp_path / "run"
    done = in_tree(tree, "-c", PROGRAM, str(shards), str(run))
    assert done.returncode == 0, done.stderr[-4000:]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["modality"]) for row in rows] == [(1, "series"), (2, "series")]
    assert rows[0]["masked_fraction"] == 6 / 16 and rows[1]["samples"] == 16 and rows[1]["skipped_steps"] == 0
    assert (run / "checkpoints/step_00000002/manifest.json").is_file()
    exported = in_tree(tree, "-m", "pretrain.export", f"run={run}", f"out={tmp_path}/out")
    assert exported.returncode and exported.stderr.endswith("has no data2vec model for modality=series\n")
