"""Cards show what a loader gives, and name what it cannot use."""

from dataclasses import replace

import numpy as np
import pytest

from data_shards.loading.loader import open_loader
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards.index import load_index
from data_shards.shards.index_file import FolderIndex
from data_shards.showing.cards import Drawing
from data_shards.showing.pictures import images, spectrograms
from tests.data_shards.shard_tools import clip, damage, encoded, make_shards, member, small_config


def numbers(ids):
    return " ".join(map(str, ids))


def drawing(shards, modality):
    config = small_config(shards, modality=modality)
    return Drawing(load_index(shards), config.for_modality(modality), numbers)


@pytest.mark.parametrize("modality", ["vision", "speech", "text"])
def test_a_card_shows_what_the_loader_gives_in_epoch_0(tmp_path, modality):
    shards = make_shards(tmp_path, (5, 3), modality=modality)
    loader = open_loader(small_config(shards, modality=modality), 0, 1)
    batches = next(loader.steps(0))
    loader.close()
    seen = 0
    for batch in batches:
        cards = list(drawing(shards, modality).cards(batch.sample_ids.tolist()))
        for row, card in enumerate(cards):
            one = batch.take(batch.sample_ids.new_tensor([row]))
            match modality:
                case "vision":
                    pairs = zip(card.pictures[1:], images(one), strict=True)
                case "speech":
                    pairs = zip(card.pictures, spectrograms(one), strict=True)
                    assert np.array_equal(card.sound, one.inputs[0].numpy())
                case "text":
                    assert [int(token.text) for token in card.tokens] == one.inputs[0].tolist()
                    assert [token.state == "masked" for token in card.tokens] == one.masks[0, 0].tolist()
                    pairs = iter(())
            assert all(np.array_equal(shown.pixels, made[0].permute(1, 2, 0).numpy()) for shown, made in pairs)
            assert f"{int(one.masks.sum())} of {int(one.lengths[0])} " in card.facts[0]
            seen += 1
    assert seen == 8


def test_keys_shards_lengths_classes_and_transcripts_are_told(tmp_path):
    samples = [
        ("a/x", {**member(0, "vision"), "cls": b"1", "txt": b"two  cats\n"}),
        ("b", {**member(1, "vision"), "cls": b"7"}),
        ("c", {**member(2, "vision"), "cls": b"dog"}),
    ]
    entry = write_shard(tmp_path / "train-000000.tar", samples)
    save_folder_index(tmp_path, FolderIndex((entry,), ("cat", "dog")))
    first, second, third = drawing(str(tmp_path), "vision").cards([0, 1, 2])
    assert (first.key, first.shard, first.damage) == ("a/x", "train-000000.tar", "")
    assert first.facts[0].startswith("40 x 30 pixels; ")
    assert first.facts[1].startswith("members: .cls (1 B), .jpg (")
    assert first.facts[2:] == ("class 1: dog", "transcript: two cats")
    assert second.facts[-1] == "class 7, which has no name"
    assert third.facts[-1] == "no class number (member .cls)"


def test_a_crop_is_told_beside_the_length(tmp_path):
    entry = write_shard(tmp_path / "train-000000.tar", [("a", {"flac": clip(0, 16000)})])
    save_folder_index(tmp_path, FolderIndex((entry,)))
    (card,) = drawing(str(tmp_path), "speech").cards([0])
    assert card.facts[0].startswith("0.98 seconds, of which a run takes 0.48; ")
    assert card.sound.size == 7760  # 24 frames of 320, and the rest of the last one


def test_damaged_samples_are_shown_by_name_with_the_reason(tmp_path):
    make_shards(tmp_path, (4,))
    damage(tmp_path, (1,))
    cards = list(drawing(str(tmp_path), "vision").cards(range(4)))
    assert [bool(card.damage) for card in cards] == [False, True, False, False]
    assert "'000001'" in cards[1].key and "checksum" in cards[1].damage and not cards[1].pictures


def test_a_sample_that_cannot_be_decoded_keeps_its_key_and_label(tmp_path):
    samples = [("good", {"jpg": encoded(0)}), ("bad", {"jpg": b"none", "cls": b"0"}), ("other", {"json": b"{}"})]
    save_folder_index(tmp_path, FolderIndex((write_shard(tmp_path / "a-0.tar", samples),), ("cat",)))
    good, bad, other = drawing(str(tmp_path), "vision").cards([0, 1, 2])
    assert not good.damage and bad.key == "bad" and bad.facts[-1] == "class 0: cat" and "not decodable" in bad.damage
    assert other.damage == "no image among its members: json"


def test_small_pictures_are_enlarged_and_large_ones_reduced(tmp_path):
    samples = [("small", {"png": encoded(0, "PNG", (9, 8))}), ("large", {"jpg": encoded(0, size=(900, 300))})]
    save_folder_index(tmp_path, FolderIndex((write_shard(tmp_path / "a-0.tar", samples),)))
    config = small_config(str(tmp_path))
    config = replace(config, vision=replace(config.vision, image_size=28))
    small, large = Drawing(load_index(str(tmp_path)), config.for_modality("vision"), numbers).cards([0, 1])
    assert small.pictures[0].pixels.shape == (8 * 13, 9 * 13, 3)
    assert large.pictures[0].pixels.shape == (85, 256, 3)
