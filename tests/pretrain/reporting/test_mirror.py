"""Figures at Weights & Biases, in its offline mode, read back from its own file."""

from __future__ import annotations

import json
import logging
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.compose import compose_pretrain
from pretrain.launch import main
from pretrain.reporting import mirror
from pretrain.reporting.mirror import Mirror, check_installed


def records(file: Path) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, behind wandb's header of 7 bytes: CRC, length, type, data."""
    data, place = file.read_bytes(), 7
    while place < len(data):
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        assert kind == 1, "a whole record: the file is shorter than a block"
        yield data[place + 7 : place + 7 + length]
        place += 7 + length


def history(folder: Path) -> list[dict[str, float]]:
    """The rows in wandb's files of a run, in the order of its starts."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for data in records(file):
            items = {item.key or "/".join(item.nested_key): item for item in Record.FromString(data).history.item}
            if items:
                rows.append({key: json.loads(item.value_json) for key, item in items.items() if key[0] != "_"})
    return rows


@pytest.mark.slow
def test_figures_are_mirrored_offline_and_a_resume_is_the_same_run(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    names = []
    for first in (1, 2):
        run = Mirror(tmp_path, {"optimizer.lr": 0.1})
        names.append((tmp_path / "wandb_id").read_text())
        for step in (first, first + 1):
            run.write(step, {"loss": step / 2, "speed/mfu": None, "probe/knn_top1": 0.25})
        run.close()
        run.close()
        time.sleep(1.1)  # the folders of wandb are named by the second
    assert names[0] == names[1] and len(names[0]) == 32
    rows = history(tmp_path)
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 0.5), (2, 1.0), (2, 1.0), (3, 1.5)]
    assert all(row["probe/knn_top1"] == 0.25 and "speed/mfu" not in row for row in rows)
    assert {path.name for path in tmp_path.iterdir()} == {"wandb", "wandb_id"}


def test_a_failure_there_is_said_once_and_the_run_goes_on(tmp_path: Path, monkeypatch, caplog) -> None:
    wandb = pytest.importorskip("wandb")

    def refused(**arguments: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(wandb, "init", refused)
    with caplog.at_level(logging.WARNING):
        run = Mirror(tmp_path, {})
        run.write(1, {"loss": 1.0})
        run.close()
    assert [record.getMessage() for record in caplog.records] == [
        "Weights & Biases does not get this run's figures (OSError): no route to host"
    ]


def test_without_the_package_the_key_is_refused_before_anything_starts(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(mirror, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"log\.wandb=true needs the package wandb: .*pip install 'wandb>=0.22,<1'"):
        main(["recipe=vision_base_imagenet", f"run.dir={tmp_path}/run", "log.wandb=true", "batch.micro=128"])
    check_installed(compose_pretrain([]).log.wandb)
    assert list(tmp_path.iterdir()) == []
