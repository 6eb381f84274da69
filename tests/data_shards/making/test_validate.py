import json
import zlib
from dataclasses import replace

import numpy as np
import pytest

from configs.signals import frames
from data_shards.making.validate import validate_shards
from data_shards.making.writer import save_folder_index, save_sidecar, write_shard
from data_shards.shards.index_file import FolderIndex, read_folder_index
from data_shards.shards.sidecar import ROW, read_rows, sidecar
from data_shards.speech.audio import read_audio
from data_shards.text.tokenizer import train_tokenizer
from data_shards.text.tokens import tokens_npy
from tests.data_shards.shard_tools import TEXT, clip, command, encoded, flip_byte, make_shards
from tests.data_shards.speech.recorded import NOISE
from tests.data_shards.speech.recorded import encoded as encoded_audio
from tests.integration.real_shards import build_shards


def test_good_shards_have_no_differences(tmp_path):
    assert validate_shards(make_shards(tmp_path, (5, 0, 3))) == ([], 3)


def test_a_flipped_byte_is_named_with_file_and_key(tmp_path):
    pattern = make_shards(tmp_path, (5, 3))
    shard = tmp_path / "train-000001.tar"
    flip_byte(shard, int(read_rows(shard)["offset"][1]) + 1600)
    done = command("validate", f"shards={pattern}")
    assert done.returncode == 1
    assert done.stdout == f"{shard}: key '000006' (row 1): checksum differs\n"


def test_each_kind_of_damage_is_found(tmp_path):
    pattern = make_shards(tmp_path, (4,) * 6)
    shards = sorted(tmp_path.glob("*.tar"))
    with shards[0].open("r+b") as file:
        file.truncate(int(read_rows(shards[0])["offset"][3]))
    shards[1].unlink()
    flip_byte(sidecar(shards[2]), sidecar(shards[2]).stat().st_size - 8)  # a checksum
    flip_byte(shards[3], shards[3].stat().st_size - 1)
    sidecar(shards[4]).unlink()
    lines, count = validate_shards(pattern)
    assert count == 6
    for shard, words in zip(shards, ("index.json says", "missing", "sha256", "damaged header", "no sidecar"),
                            strict=False):  # fmt: skip
        assert any(shard.stem in line and words in line for line in lines), (shard, lines)
    assert f"{shards[0]}: row 3: {read_rows(shards[0])['size'][3]} of" in "\n".join(lines)
    assert not any(shards[5].stem in line for line in lines)


def cut(data):
    return data[: len(data) * 2 // 3]


@pytest.mark.parametrize(
    ("modality", "bad", "told"),
    [
        ("vision", {"jpg": b"\xff\xd8 none"}, ".jpg: not decodable"),
        ("vision", {"png": cut(encoded(0, "PNG", (300, 200)))}, ".png: not decodable"),
        ("vision", {"cls": b"1"}, "no image, recording or token ids among its members: cls"),
        ("speech", {"flac": cut(clip(0, 9000))}, ".flac: "),
        ("text", {"npy": tokens_npy([0, 5, TEXT.vocab_size, 2], 2**17)}, ".npy: token 300, and the tokenizer has 300"),
        ("text", {"npy": cut(tokens_npy([0, 5, 6, 2], 300))}, ".npy: "),
    ],
)
def test_deep_names_what_cannot_be_decoded(tmp_path, modality, bad, told):
    pattern = make_shards(tmp_path, (4, 3), modality=modality)
    assert validate_shards(pattern, deep=True, workers=1) == ([], 2)
    index = read_folder_index(tmp_path)
    entry = write_shard(tmp_path / "train-000002.tar", [("good", {"jpg": encoded(1)}), ("bad", bad)])
    save_folder_index(tmp_path, FolderIndex((*index.shards, entry), index.classes, index.tokenizer))
    assert validate_shards(pattern, workers=1) == ([], 3)
    lines, _ = validate_shards(pattern, deep=True, workers=1)
    assert len(lines) == 1 and lines[0].startswith(f"{tmp_path}/train-000002.tar: key 'bad' (row 1): {told}")


def test_deep_compares_decoded_lengths_with_the_index(tmp_path):
    """An index that says 4 hours of recordings that last minutes would choose the order by them."""
    pattern = make_shards(tmp_path, (3,), modality="speech")
    shard = tmp_path / "train-000000.tar"
    rows = read_rows(shard).copy()
    rows["length"][1] = 15_000
    entry, total = read_folder_index(tmp_path).shards[0], int(rows["length"].sum())
    wrong = replace(entry, idx_sha256=save_sidecar(shard, rows), length_sum=total, length_max=15_000)
    save_folder_index(tmp_path, FolderIndex((wrong,), ("a", "b", "c")))
    assert validate_shards(pattern, workers=1) == ([], 1)
    lines, _ = validate_shards(pattern, deep=True, workers=1)
    length = frames(len(read_audio(clip(1))))
    assert lines == [
        f"{shard}: key '000001' (row 1): .flac: length 15000 by the index, {length} decoded; index the shard again"
    ]


def test_deep_names_recordings_whose_channels_cancel(tmp_path):
    opposed = encoded_audio(np.stack([NOISE, -NOISE], 1))
    entry = write_shard(tmp_path / "train-000000.tar", [("a", {"wav": opposed}), ("b", {"wav": encoded_audio()})])
    save_folder_index(tmp_path, FolderIndex((entry,)))
    lines, _ = validate_shards(str(tmp_path), deep=True, workers=1)
    assert len(lines) == 1 and "key 'a' (row 0): .wav: its channels cancel each other to silence" in lines[0]


def test_totals_and_rows_are_checked_too(tmp_path):
    pattern = make_shards(tmp_path, (5,))
    shard, index = tmp_path / "train-000000.tar", tmp_path / "index.json"
    rows = read_rows(shard)
    data = shard.read_bytes()
    merged = np.array([(0, rows["size"][:2].sum(), 0, 4), *rows[2:].tolist()], ROW)
    merged["crc"][0] = zlib.crc32(data[: merged["size"][0]])
    idx_sha256 = save_sidecar(shard, merged)
    content = json.loads(index.read_text())
    content["shardlist"][0] |= {"nsamples": 4, "idx_sha256": idx_sha256, "length_max": 4}
    del content["content_sha256"]  # as written by an older version
    index.write_text(json.dumps(content))
    lines, _ = validate_shards(pattern, workers=1)
    assert lines == [
        f"{index}: totals.nsamples is 5, the sum over its shards 4",
        f"{shard}: its 5 samples do not lie where the 4 rows of its sidecar say",
    ]


@pytest.mark.parametrize("deep", [False, True])
def test_a_changed_or_missing_tokenizer_is_named(tmp_path, deep):
    pattern = make_shards(tmp_path, (3,), modality="text")
    assert validate_shards(pattern, deep, workers=1)[0] == []
    train_tokenizer(["other words"], TEXT.vocab_size).save(tmp_path / "tokenizer")
    lines, _ = validate_shards(pattern, deep, workers=1)
    assert lines == [f"{tmp_path}/tokenizer: not the tokenizer that index.json says made the token ids"]
    (tmp_path / "tokenizer/merges.txt").unlink()
    lines, _ = validate_shards(pattern, deep, workers=1)
    assert len(lines) == 1 and lines[0].startswith(f"{tmp_path}/tokenizer has neither vocab.json and merges.txt")


def test_changed_settings_of_a_tokenizer_that_a_build_wrote_are_named(tmp_path):
    shards = build_shards(tmp_path, "text")
    assert validate_shards(str(shards), workers=1)[0] == []
    settings = shards / "tokenizer/special_tokens_map.json"
    settings.write_text(settings.read_text().replace("<mask>", "<nask>"))
    assert validate_shards(str(shards), workers=1)[0] == [f"{settings}: changed since it was built"]
    settings.unlink()
    assert "special_tokens_map.json" in validate_shards(str(shards), workers=1)[0][0]


def test_lengths_in_an_older_index_are_compared(tmp_path):
    pattern = make_shards(tmp_path, (5,))
    index = tmp_path / "index.json"
    content = json.loads(index.read_text())
    del content["content_sha256"]
    content["shardlist"][0]["length_max"] = 3
    index.write_text(json.dumps(content))
    path = sidecar(tmp_path / "train-000000.tar")
    assert validate_shards(pattern)[0] == [f"{path}: sum and maximum of lengths (10, 2), index.json says (10, 3)"]


def test_the_command_decodes_in_several_processes(tmp_path):
    pattern = make_shards(tmp_path, (3, 3))
    done = command("validate", f"shards={pattern}", "deep=true", "workers=2")
    assert (done.returncode, done.stdout) == (0, "2 shards are as their index says\n"), done.stderr
