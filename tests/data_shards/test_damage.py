"""Across shards, making and loading. What can happen to a shard on disk, and that nothing of it passes in silence."""

import os
import shutil
from pathlib import Path

import pytest

from data_shards.loading.modality_loader import ModalityLoader
from data_shards.making.validate import validate_shards
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards.bad_sample import BadSample
from data_shards.shards.index import load_index
from data_shards.shards.index_file import FolderIndex
from data_shards.shards.reader import Reader
from data_shards.shards.sidecar import read_rows
from tests.data_shards.shard_tools import counted_steps, encoded, flip_byte, make_shards, small_config
from tests.own import own

SAMPLES = 8
ROW = 5
"""The sample that is hit; its members are cls (a header, a block), then jpg."""


def _overwrite(shard: Path, offset: int, data: bytes) -> None:
    with shard.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _start(shard: Path) -> int:
    return int(read_rows(shard)["offset"][ROW])


def cut_at_a_member_boundary(shard: Path) -> set[int]:
    os.truncate(shard, _start(shard))
    return set(range(ROW, SAMPLES))


def cut_in_a_header(shard: Path) -> set[int]:
    os.truncate(shard, _start(shard) + 100)
    return set(range(ROW, SAMPLES))


def cut_between_the_members_of_a_sample(shard: Path) -> set[int]:
    os.truncate(shard, _start(shard) + 1024)
    return set(range(ROW, SAMPLES))


def cut_inside_data(shard: Path) -> set[int]:
    os.truncate(shard, _start(shard) + 1024 + 512 + 300)
    return set(range(ROW, SAMPLES))


def header_overwritten_in_the_middle(shard: Path) -> set[int]:
    _overwrite(shard, _start(shard) + 1024, b"\xa5" * 512)
    return {ROW}


def header_zeroed_in_the_middle(shard: Path) -> set[int]:
    _overwrite(shard, _start(shard), bytes(512))
    return {ROW}


def first_header_damaged(shard: Path) -> set[int]:
    _overwrite(shard, 0, b"\xa5" * 512)
    return {0}


def emptied(shard: Path) -> set[int]:
    os.truncate(shard, 0)
    return set(range(SAMPLES))


def bit_flipped_in_data(shard: Path) -> set[int]:
    flip_byte(shard, _start(shard) + 1600)
    return {ROW}


def exchanged_with_the_next(shard: Path) -> set[int]:
    """Both shards are damaged then, as far as the index goes."""
    other = shard.with_name(shard.name.replace("0.tar", "1.tar"))
    shutil.move(shard, keep := shard.with_name("keep"))
    shutil.move(other, shard)
    shutil.move(keep, other)
    return set(range(SAMPLES))


DAMAGE = {
    cut_at_a_member_boundary: ("bytes, index.json says", "row 7: ", "truncated"),
    cut_in_a_header: ("bytes, index.json says", "row 7: ", "truncated"),
    cut_between_the_members_of_a_sample: ("bytes, index.json says", "row 5: ", "row 6: ", "truncated"),
    cut_inside_data: ("bytes, index.json says", "row 5: ", "row 6: ", "truncated"),
    header_overwritten_in_the_middle: ("key '000005' (row 5): checksum differs", "damaged header at byte"),
    header_zeroed_in_the_middle: (": row 5: checksum differs", "damaged header at byte"),
    first_header_damaged: (": row 0: checksum differs", "damaged"),
    emptied: (": 0 bytes, index.json says", "truncated or no tar"),
    bit_flipped_in_data: ("key '000005' (row 5): checksum differs",),
    exchanged_with_the_next: ("holds what index.json says of train-000001.tar",),
}
"""What damages a shard of `damaged_shards` (the first), and returns the rows that are lost; what `validate` says."""


def damaged_shards(folder: Path) -> tuple[str, Path]:
    """Three shards of SAMPLES images; their pattern, and the one to be damaged."""
    return make_shards(folder, (SAMPLES,) * 3), folder / "train-000000.tar"


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_validate_names_the_file_and_the_samples(tmp_path, damage):
    pattern, shard = damaged_shards(tmp_path)
    lost = damage(shard)
    lines, _ = validate_shards(pattern, workers=1)
    own = [line for line in lines if line.startswith(f"{shard}: ")]
    for words in DAMAGE[damage]:
        assert any(words in line for line in own), (words, lines)
    named = sum("row " in line for line in own)
    assert named == (0 if damage is exchanged_with_the_next else len(lost))
    assert not any("train-000002" in line for line in lines)
    assert damage is exchanged_with_the_next or len(own) == len(lines)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_run_names_what_is_lost_and_replaces_it_alike_on_all_ranks(tmp_path, caplog, damage):
    pattern, shard = damaged_shards(tmp_path)
    lost = damage(shard)
    if damage is exchanged_with_the_next:
        lost = set(range(2 * SAMPLES))
    reader, bad = Reader(load_index(pattern)), set()
    for sample in range(3 * SAMPLES):
        try:
            assert reader.read(sample).key == f"{sample:06d}"
        except BadSample as error:
            report = reader.report(sample, error)
            assert "train-00000" in report.shard and f"row {sample % SAMPLES}" in report.sample
            bad.add(sample)
    assert bad == lost
    config = small_config(pattern, lanes=2, window=12, max_bad_samples=1000)
    loaders = [ModalityLoader(own(config), rank, 2) for rank in range(2)]
    assert {loader.steps_per_epoch for loader in loaders} == {3}
    for ranks in counted_steps(loaders, 6):
        found = [int(sample) for step in ranks for batch in step for sample in batch.sample_ids]
        assert [[len(batch) for batch in step] for step in ranks] == [[4], [4]] and not set(found) & lost
    assert [loader.bad.replaced for loader in loaders] == [2 * len(lost)] * 2, "once in each of two epochs"
    assert str(shard) in caplog.text


def test_keys_that_two_shards_share_are_named(tmp_path):
    """Each is sound by itself, and other readers merge the last of one and the first of the next."""
    first = write_shard(tmp_path / "a-0.tar", [("x", {"jpg": encoded(0)}), ("y", {"cls": b"1"})])
    second = write_shard(tmp_path / "a-1.tar", [("y", {"jpg": encoded(1)}), ("z", {"jpg": encoded(2)})])
    save_folder_index(tmp_path, FolderIndex((first, second)))
    lines, _ = validate_shards(str(tmp_path), workers=1)
    assert len(lines) == 2 and all("1 of its keys are in other shards too, as 'y' in" in line for line in lines)
