"""Manifests in TSV and CSV, of images and of recordings; what is wrong in them is left out by name."""

import re

import pytest

from configs.schema_commands import BuildConfig
from data_shards.making.build import build
from data_shards.making.validate import validate_shards
from data_shards.shards.index import load_index
from tests.data_shards.making.test_build import keys_of
from tests.data_shards.shard_tools import clip, encoded


def build_manifest(path, output, source="imagefolder", **keys):
    return build(BuildConfig(source=source, input=str(path), output=str(output), **{"workers": 1, **keys}))


def pictures(folder, count=4):
    (folder / "pictures").mkdir(parents=True)
    for i in range(count):
        (folder / f"pictures/{i}.png").write_bytes(encoded(i, "PNG"))
    return folder


def test_a_csv_of_images_with_quotes_classes_and_captions(tmp_path):
    rows = [f'pictures/{i}.png,{9 + i % 2},"a ""quoted"", caption\nof {i}",x' for i in range(4)]
    (pictures(tmp_path) / "a.csv").write_text("\ufefffile_name,label,text,more\r\n" + "\r\n".join(rows) + "\r\n\r\n")
    build_manifest(tmp_path / "a.csv", tmp_path / "out")
    found = keys_of(tmp_path / "out")
    assert set(found) == {f"pictures/{i}" for i in range(4)}
    assert found["pictures/3"]["txt"] == b'a "quoted", caption\nof 3' and found["pictures/3"]["cls"] == b"1"
    assert load_index(str(tmp_path / "out")).classes == ("9", "10")
    assert validate_shards(str(tmp_path / "out"), deep=True, workers=1) == ([], 1)


def test_common_voice_has_its_recordings_in_clips(tmp_path):
    (tmp_path / "clips").mkdir()
    rows = ["client_id\tpath\tsentence\tup_votes\tgender"]
    for i in range(3):
        (tmp_path / f"clips/common_voice_{i}.flac").write_bytes(clip(i, 3000))
        rows.append(f'id\tcommon_voice_{i}.flac\tHe said "no {i}.\t2\tmale')
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n")
    build_manifest(tmp_path / "train.tsv", tmp_path / "out", "audiofolder", label_field="gender")
    found = keys_of(tmp_path / "out")
    assert found["clips/common_voice_1"]["txt"] == b'He said "no 1.' and found["clips/common_voice_1"]["cls"] == b"0"


def test_lines_that_name_nothing_are_left_out_and_the_others_stay(tmp_path):
    names = ["pictures/0.png", "pictures/9.png", "", "pictures/0.png", "x" * 5000, "a\0b", "pictures/1.png"]
    (pictures(tmp_path) / "a.csv").write_text("path\n" + "\n".join(f'"{name}"' for name in names) + "\n")
    told = "\n".join(build_manifest(tmp_path / "a.csv", tmp_path / "out"))
    assert set(keys_of(tmp_path / "out")) == {"pictures/0", "pictures/1"}
    assert "(named twice): pictures/0.png" in told and "pictures/9.png" in told and "a\0b" not in told


def test_keys_are_never_absolute(tmp_path):
    (pictures(tmp_path / "in") / "a.csv").write_text(f"path\n{tmp_path}/in/pictures/0.png\n../in/pictures/1.png\n")
    build_manifest(tmp_path / "in/a.csv", tmp_path / "out")
    assert (
        all(not key.startswith(("/", ".")) for key in keys_of(tmp_path / "out")) and len(keys_of(tmp_path / "out")) == 2
    )


@pytest.mark.parametrize(
    "content, keys, said",
    [
        ("a,b\n", {}, "is no manifest: its first line is neither a folder"),
        ("pictures\n0.png\n", {}, "is no manifest"),
        ("a,b\npictures/0.png,1\n", {"data_field": "c"}, "has no column 'c'; set data_field=COLUMN (it has a, b)"),
        ("path,b\npictures/0.png,1\n", {"label_field": "c"}, "has no column 'c'; set label_field=COLUMN"),
        ("path,b\npictures/0.png,1\n", {"text_field": "c"}, "has no column 'c'; set text_field=COLUMN"),
        ("path\ngone.png\n", {}, "holds no image"),
        ("", {}, "is no manifest"),
    ],
)
def test_a_wrong_manifest_is_one_line_with_the_remedy(tmp_path, content, keys, said):
    (pictures(tmp_path, 1) / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        build_manifest(tmp_path / "a.csv", tmp_path / "out", **keys)
    assert "\n" not in str(raised.value)
