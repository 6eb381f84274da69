import logging
from dataclasses import replace

import pytest
import torch

from configs.signals import samples_of
from data_shards.batch import EOS
from data_shards.loading.probe_samples import labelled_samples
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards.index import load_index
from data_shards.shards.index_file import FolderIndex, TokenizerEntry, read_folder_index
from data_shards.shards.reader import Reader
from data_shards.shards.sidecar import read_rows
from tests.data_shards.shard_tools import TEXT, flip_byte, make_shards, small_config
from tests.own import own


def test_images_are_spread_over_the_shards_and_carry_their_labels(tmp_path):
    pattern = make_shards(tmp_path, (10, 10, 10))
    batch = labelled_samples(pattern, own(small_config("")), 6)
    labels = batch.labels
    assert batch.inputs.shape == (6, 3, 28, 28) and batch.inputs.dtype == torch.uint8
    assert batch.tokens == 49 and batch.sample_ids.tolist() == [0, 5, 10, 15, 20, 25]
    assert labels.tolist() == [i % 3 for i in (0, 5, 10, 15, 20, 25)] and labels.dtype == torch.int64
    assert len(labelled_samples(pattern, own(small_config("")), 100).labels) == 30


def test_clips_and_texts_are_whole_and_padded_to_the_longest(tmp_path):
    for modality in ("speech", "text"):
        pattern = make_shards(tmp_path / modality, (10, 10), modality=modality)
        batch = labelled_samples(pattern, own(small_config("", modality=modality)), 20)
        labels = batch.labels
        index = load_index(pattern)
        stored = [int(n) for shard in range(len(index.paths)) for n in index.rows(shard)["length"]]
        longest = {"speech": 24, "text": 12}[modality]
        assert batch.lengths.tolist() == [min(n, longest) for n in stored] and max(stored) > longest
        assert batch.tokens == longest
        assert labels.tolist() == [i % 3 for i in range(20)]
        if modality == "speech":
            assert batch.inputs.shape == (20, samples_of(24)) and batch.scale.shape == (20, 2)
        else:
            assert (batch.inputs.gather(1, batch.lengths[:, None] - 1) == EOS).all()


def test_an_unreadable_image_is_left_out_by_name(tmp_path, caplog):
    pattern = make_shards(tmp_path, (4,))
    shard = tmp_path / "train-000000.tar"
    flip_byte(shard, int(read_rows(shard)["offset"][2]) + 1600)
    with caplog.at_level(logging.WARNING):
        assert labelled_samples(pattern, own(small_config("")), 4).labels.tolist() == [0, 1, 0]
    said = f"bad sample, left out of the probe: {shard}, key '000002' (row 2): checksum of its "
    assert [record.getMessage()[: len(said)] for record in caplog.records] == [said]


def test_classes_are_those_of_the_reference_by_name_and_others_are_refused(tmp_path):
    train, test = (make_shards(tmp_path / name, (4,)) for name in ("train", "test"))
    config = small_config(train)
    config = own(replace(config, probe=replace(config.probe, train_shards=train, test_shards=test)))
    assert len(labelled_samples(test, config, 4)) == 4
    index = read_folder_index(tmp_path / "test")
    save_folder_index(tmp_path / "test", replace(index, classes=()))  # tars of others name none
    assert len(labelled_samples(test, config, 4)) == 4
    before, names = labelled_samples(test, config, 4).labels.tolist(), list(index.classes)
    save_folder_index(tmp_path / "test", replace(index, classes=tuple(names[::-1])))
    last = len(names) - 1
    assert labelled_samples(test, config, 4).labels.tolist() == [last - label for label in before], "by their names"
    save_folder_index(tmp_path / "test", replace(index, classes=("a", "strange", "b")))
    with pytest.raises(
        ValueError, match=r"class 'strange' of .*test.* is none of those in probe\.train_shards=.*\('a'"
    ):
        labelled_samples(test, config, 4)


def test_texts_of_another_tokenizer_are_refused(tmp_path):
    """Of as many types too: their ids mean other subwords."""
    train, test = (make_shards(tmp_path / name, (4,), modality="text") for name in ("train", "test"))
    config = small_config(train, modality="text")
    assert len(labelled_samples(test, own(config), 4).labels) == 4
    entry = TokenizerEntry("1" * 64, TEXT.vocab_size)
    save_folder_index(tmp_path / "test", replace(read_folder_index(tmp_path / "test"), tokenizer=entry))
    remedy = f"{tmp_path}/test has another tokenizer than data.shards .*tokenizer={tmp_path}/train/tokenizer"
    with pytest.raises(ValueError, match=f"probe.train_shards and probe.test_shards: {remedy}"):
        labelled_samples(test, own(config), 4)
    elsewhere = small_config(f"{tmp_path}/gone/*.tar", modality="text")  # training's shards need not be there
    assert len(labelled_samples(test, own(elsewhere), 4).labels) == 4
    with pytest.raises(ValueError, match=r"text\.vocab_size=400, but .*test/tokenizer\) has 300 types"):
        labelled_samples(test, own(replace(elsewhere, text=replace(TEXT, vocab_size=400))), 4)


def test_shards_without_labels_are_refused(tmp_path):
    pattern = make_shards(tmp_path, (2,))
    jpg = Reader(load_index(pattern)).read(0).members["jpg"]
    entry = write_shard(tmp_path / "flat-000000.tar", [("a", {"jpg": jpg})])
    save_folder_index(tmp_path, FolderIndex((entry,)))
    with pytest.raises(
        ValueError, match=rf"flat-\*.tar': {tmp_path}/flat-000000.tar, key 'a' \(row 0\): no class number"
    ):
        labelled_samples(f"{tmp_path}/flat-*.tar", own(small_config("")), 2)
