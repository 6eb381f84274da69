"""JSON lines that name files or hold them in base64; what is wrong in them is left out by line."""

import base64
import gzip
import json
import re

import pytest

from data_shards.making.validate import validate_shards
from data_shards.shards.index import load_index
from tests.data_shards.making.test_build import keys_of
from tests.data_shards.shard_tools import clip, encoded
from tests.data_shards.sources.tables.test_parquet_media import build_table


def write_lines(path, rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def listed(output):
    return (output / ".build/train/left_out.tsv").read_text().splitlines()


def test_files_that_lines_name_are_found_beside_the_table(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        (tmp_path / f"pictures/{i}.JPG").write_bytes(encoded(i))
    rows = [{"file_name": f"pictures/{i}.JPG", "text": None, "kind": "ba"[i % 2]} for i in range(4)]
    lines = write_lines(tmp_path / "metadata.jsonl", rows)
    told = build_table(lines, tmp_path / "out", source="jsonl", label_field="kind")
    assert told[0] == "images from field 'file_name'" and "4 samples" in told[-1]
    found = keys_of(tmp_path / "out")
    assert all(key.startswith("metadata/") for key in found)
    assert {(s["jpg"], s["cls"]) for s in found.values()} == {(encoded(i), b"10"[i % 2 :][:1]) for i in range(4)}
    assert load_index(str(tmp_path / "out")).classes == ("a", "b")


def test_captions_need_the_modality_because_texts_come_first(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(0, "PNG"))
    lines = write_lines(tmp_path / "a.jsonl", [{"file_name": "a.png", "text": "a caption of a picture " * 9}] * 3)
    told = build_table(lines, tmp_path / "texts", source="jsonl", vocab_size=300)
    assert "tokens" in told[-1]
    told = build_table(lines, tmp_path / "out", source="jsonl", modality="vision")
    found = keys_of(tmp_path / "out")
    assert len(found) == 3 and all(sample["txt"].startswith(b"a caption") for sample in found.values())


def test_bytes_in_base64_are_read_from_uncompressed_lines(tmp_path):
    rows = [
        {"audio": {"bytes": base64.b64encode(clip(1, 3000)).decode(), "path": None}, "said": "one"},
        {"audio": {"bytes": "%%%"}, "said": "two"},
        {"audio": f"data:audio/flac;base64,{base64.b64encode(clip(2, 3000)).decode()}", "said": "three"},
    ]
    lines = write_lines(tmp_path / "a.jsonl", rows)
    keys = {"source": "jsonl", "modality": "speech", "data_field": "audio", "text_field": "said"}
    build_table(lines, tmp_path / "out", **keys)
    assert {s["flac"]: s["txt"] for s in keys_of(tmp_path / "out").values()} == {
        clip(1, 3000): b"one",
        clip(2, 3000): b"three",
    }
    assert [line.split("\t")[0] for line in listed(tmp_path / "out")] == ["not base64"]
    assert validate_shards(str(tmp_path / "out"), deep=True, workers=1) == ([], 1)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    with pytest.raises(ValueError, match="bytes are read from uncompressed files only; unpack it"):
        build_table(tmp_path / "b.jsonl.gz", tmp_path / "out2", **keys)


def test_mixed_lines_are_left_out_by_line_and_the_others_stay(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(0, "PNG"))
    rows = [
        {"image": "a.png", "c": 1}, {"image": 3, "c": 1}, {"image": "b.png", "c": 1}, "[1, 2]\n", "{\n",
        {"c": 1}, {"image": {"path": "a.png"}}, {"image": "a.png", "c": "\ud83d"},
    ]  # fmt: skip
    lines = write_lines(tmp_path / "a.jsonl", rows)
    build_table(lines, tmp_path / "out", source="jsonl", label_field="c")
    assert len(keys_of(tmp_path / "out")) == 2
    place = f"{tmp_path}/a.jsonl, line"
    reasons = listed(tmp_path / "out")
    assert f"not there\t{place} 3 (b.png)" in reasons and f"not a JSON object\t{place} 4 (list)" in reasons
    assert f"kept, but no class in 'c'\t{place} 7" in reasons
    assert {re.search(r"jsonl, line (\d)", line)[1] for line in reasons} == set("2345678")
    assert load_index(str(tmp_path / "out")).classes == ("1",)


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"label_field": "d"}, "has a field 'd'; set label_field=NAME"),
        ({"text_field": "said"}, "has a field 'said'; set text_field=NAME"),
        ({"modality": "speech"}, "no field of speech files; set data_field=NAME (it has image, c)"),
        ({"data_field": "c"}, "field 'c' does not tell whether it names images or recordings; set modality=vision"),
        ({"data_field": "c", "modality": "vision"}, "left out 1 (not an image in 'c')"),
    ],
)
def test_a_wrong_field_is_one_line_with_the_remedy(tmp_path, keys, said):
    (tmp_path / "a.png").write_bytes(encoded(0, "PNG"))
    lines = write_lines(tmp_path / "a.jsonl", [{"image": "a.png", "c": 1}])
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        build_table(lines, tmp_path / "out", source="jsonl", **keys)
    assert "\n" not in str(raised.value)
