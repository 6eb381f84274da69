import re

import pytest

from configs.schema_commands import BenchConfig
from configs.schema_modalities import MODALITIES
from data_shards.loading.bench import HEADER, bench
from tests.data_shards.shard_tools import command, flip_byte, make_shards

STAGES = ["read, checksum, parse", "decode", "decode, augment", "read to masked batch, this process"]


def table(lines):
    """Name of each stage: samples/s, MB/s and microseconds."""
    rows = [re.split(r"\s{2,}", line) for line in lines]
    return {name: [float(figure.replace(",", "")) for figure in figures] for name, *figures in rows}


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_stage_of_every_modality(tmp_path, modality):
    shards = make_shards(tmp_path, (12, 8), modality=modality)
    flip_byte(tmp_path / "train-000000.tar", 600)
    first, header, *lines = bench(BenchConfig(shards=shards, workers=1, batch=8, seconds=0.05))
    assert first.startswith(f"20 samples, {modality};") and header == HEADER
    found = table(lines)
    assert list(found) == [*STAGES, "loader, workers=1"]
    for speed, mb, us in found.values():
        assert speed > 0 and mb > 0 and us == pytest.approx(1e6 / speed, rel=0.1)


def test_the_command(tmp_path):
    shards = make_shards(tmp_path, (3,), modality="text")
    done = command("bench", f"shards={shards}", "seconds=0.01", "workers=1")
    assert done.returncode == 0 and "loader, workers=1" in done.stdout, done.stderr


def test_shards_of_another_modality_are_refused(tmp_path):
    shards = make_shards(tmp_path, (3,), modality="text")
    with pytest.raises(ValueError, match="can be used"):
        list(bench(BenchConfig(shards=shards, seconds=0.01, modality="speech")))
