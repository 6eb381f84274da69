"""What shards tell of themselves."""

import pytest

from configs.schema_modalities import MODALITIES
from configs.schema_training import DataConfig
from data_shards.facts import Amount, amount_of, modality_of_shards
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards.index_file import FolderIndex
from tests.data_shards.http_store import serve
from tests.data_shards.shard_tools import encoded, make_shards


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_modality_is_that_of_the_samples(tmp_path, modality) -> None:
    assert modality_of_shards(DataConfig(shards=make_shards(tmp_path, (2, 0, 3), modality=modality))) == modality


def test_the_modality_of_remote_shards_is_read_from_one_sample(tmp_path) -> None:
    make_shards(tmp_path / "shards", (3,), modality="speech")
    with serve(tmp_path / "shards") as store:
        data = DataConfig(shards=f"{store.url}/", cache_dir=str(tmp_path))
        assert modality_of_shards(data) == "speech"


def test_samples_of_several_modalities_are_named(tmp_path) -> None:
    make_shards(tmp_path / "a", (2,))
    make_shards(tmp_path / "b", (2,), modality="speech")
    with pytest.raises(ValueError, match="several modalities: vision in .*/a/train-000000.tar, speech in .*/b/"):
        modality_of_shards(DataConfig(shards=(str(tmp_path / "a"), str(tmp_path / "b"))))


def test_a_damaged_first_sample_does_not_hide_the_others_and_unknown_members_are_named(tmp_path) -> None:
    entries = [write_shard(tmp_path / f"a-{i}.tar", [("k", {"jpg": encoded(i)})]) for i in range(2)]
    save_folder_index(tmp_path, FolderIndex(tuple(entries)))
    with (tmp_path / "a-0.tar").open("r+b") as tar:
        tar.seek(600)
        tar.write(b"x" * 8)
    assert modality_of_shards(DataConfig(shards=str(tmp_path))) == "vision"
    other = tmp_path / "other"
    other.mkdir()
    save_folder_index(other, FolderIndex((write_shard(other / "a-0.tar", [("k", {"xyz": b"1"})]),)))
    with pytest.raises(ValueError, match="no image, recording or token ids among its members: xyz; give shards of"):
        modality_of_shards(DataConfig(shards=str(other)))


def test_the_amount_is_read_from_the_index(tmp_path) -> None:
    assert amount_of(DataConfig(shards=make_shards(tmp_path, (0, 2, 3)))) == Amount(5, 2)
