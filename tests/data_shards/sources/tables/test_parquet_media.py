"""Parquet of images and recordings as Hugging Face writes it: built whole; what is wrong in it is left out by place."""

import io
import json
import re

import pyarrow
import pytest
from pyarrow import parquet

from configs.schema_commands import BuildConfig
from data_shards.making.build import build
from data_shards.making.validate import validate_shards
from data_shards.shards.index import load_index
from data_shards.speech.audio import read_audio
from tests.data_shards.making.test_build import keys_of
from tests.data_shards.shard_tools import clip, command, encoded, tree

FILES = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
CLASSES = ["cat", "dog", "emu"]


def table(rows, kind="Image", names=CLASSES, column="image", **others):
    """A table as `datasets` writes it: rows of ({bytes, path}, number of the class)."""
    features = {column: {"_type": kind}, "label": {"names": names, "_type": "ClassLabel"}}
    schema = pyarrow.schema(
        {
            column: FILES,
            "label": pyarrow.int64(),
            **{name: pyarrow.array(values).type for name, values in others.items()},
        },
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    columns = {column: [row[0] for row in rows], "label": [row[1] for row in rows], **others}
    return pyarrow.table(columns, schema=schema)


def image(seed, path=None, kind="JPEG"):
    return {"bytes": encoded(seed, kind), "path": path}


def build_table(path, output, **keys):
    keys = {"source": "parquet", "workers": 1, **keys}
    return build(BuildConfig(input=str(path), output=str(output), **keys))


@pytest.fixture
def images(tmp_path):
    rows = [(image(i, f"{i}.jpeg" if i % 2 else None, "PNG" if i % 4 == 0 else "JPEG"), i % 3) for i in range(300)]
    (tmp_path / "in").mkdir()
    parquet.write_table(table(rows[:200]), tmp_path / "in/a.parquet", row_group_size=90)
    parquet.write_table(table(rows[200:]), tmp_path / "in/b.parquet")
    return tmp_path / "in", rows


def test_images_with_bytes_are_built_with_the_names_of_their_classes(images, tmp_path):
    source, rows = images
    told = build_table(source, tmp_path / "out")
    assert told == [
        "images from column 'image', classes from 'label'",
        f"train: 300 samples in 1 shards, 3 classes: {tmp_path}/out",
    ]
    found = keys_of(tmp_path / "out")
    assert found["a/1-0"].keys() >= {"jpg", "cls"} and "jpeg" in found["a/1-1"]  # row 90 has no name, row 91 has one
    assert {(s.get("jpeg") or s.get("jpg") or s["png"], int(s["cls"])) for s in found.values()} == {
        (row["bytes"], label) for row, label in rows
    }
    assert load_index(str(tmp_path / "out")).classes == tuple(CLASSES)
    assert validate_shards(str(tmp_path / "out"), deep=True, workers=1) == ([], 1)
    labels = [int(sample["cls"]) for sample in found.values()]
    assert labels != sorted(labels)


def test_any_number_of_processes_gives_the_same_bytes_and_a_second_build_writes_nothing(images, tmp_path, monkeypatch):
    monkeypatch.setattr("data_shards.sources.tables.parquet_media._PART", 60_000)  # several parts of one group
    for name in ("one", "two"):
        build_table(images[0], tmp_path / name, shard_mb=1)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert len(keys_of(tmp_path / "one")) == 300
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").glob("*.tar")}
    build_table(images[0], tmp_path / "one", shard_mb=1)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "one").glob("*.tar")}


def test_recordings_with_transcripts_become_flac(tmp_path):
    rows = [({"bytes": clip(i, 4000), "path": f"{i}.flac"}, i % 2) for i in range(4)]
    said = table(rows, "Audio", CLASSES[:2], "audio", sentence=[f"said {i}" for i in range(4)])
    parquet.write_table(said, tmp_path / "a.parquet")
    build_table(tmp_path / "a.parquet", tmp_path / "out", text_field="sentence")
    found = keys_of(tmp_path / "out")
    assert found["a/0-2"]["txt"] == b"said 2" and len(read_audio(found["a/0-2"]["flac"])) == 4000
    assert validate_shards(str(tmp_path / "out"), deep=True, workers=1) == ([], 1)


def test_rows_that_cannot_be_used_are_left_out_by_place_and_the_others_stay(tmp_path):
    rows = [
        (image(0), 0),
        (None, 1),
        ({"bytes": None, "path": "gone.jpg"}, 1),
        ({"bytes": b"no image", "path": "a.jpg"}, 1),
        ({"bytes": None, "path": "https://host/a.jpg"}, 1),
        (image(1), 7),
        (image(2), -1),
        (image(3), None),
        ({"bytes": None, "path": "there.png"}, 2),
    ]
    (tmp_path / "there.png").write_bytes(encoded(9, "PNG"))
    parquet.write_table(table(rows), tmp_path / "a.parquet")
    told = "\n".join(build_table(tmp_path / "a.parquet", tmp_path / "out"))
    assert set(keys_of(tmp_path / "out")) == {"a/0-0", "a/0-6", "a/0-7", "a/0-8"}
    place = f"{tmp_path}/a.parquet, row group 0, row"
    listed = (tmp_path / "out/.build/train/left_out.tsv").read_text().splitlines()
    assert f"not an image in 'image'\t{place} 1 (null)" in listed
    assert f"not there\t{place} 2 (gone.jpg)" in listed
    assert f"a URL, which is not fetched; download it\t{place} 4 (https://host/a.jpg)" in listed
    assert f"none of the 3 classes of 'label'\t{place} 5 (7)" in listed
    assert f"kept, but no class in 'label'\t{place} 6" in listed and "kept 2 (no class in 'label')" in told
    assert any(line.startswith(f"damaged or no image\t{place} 3 (") for line in listed)
    assert len(listed) == 7


def test_columns_of_names_become_files_of_their_own(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encoded(i, "PNG"))
    names = {"file": ["0.png", "1.png", "2.png", "3.png"], "topic": ["b", "a", "b", "a"]}
    parquet.write_table(pyarrow.table(names), tmp_path / "a.parquet")
    told = build_table(tmp_path / "a.parquet", tmp_path / "out", data_field="file", label_field="topic")
    assert f"left out 1 (not there): {tmp_path}/a.parquet, row group 0, row 3 (3.png)" in told
    found = keys_of(tmp_path / "out")
    assert found["a/0-0"]["png"] == encoded(0, "PNG") and found["a/0-0"]["cls"] == b"1"
    assert load_index(str(tmp_path / "out")).classes == ("a", "b")


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"modality": "speech"}, "no column of recordings; set data_field=COLUMN (it has image, label)"),
        ({"label_field": "class"}, "left out 1 (no column 'class'; set label_field=COLUMN)"),
        ({"text_field": "caption"}, "left out 1 (no column 'caption'; set text_field=COLUMN)"),
        ({"modality": "text"}, "left out 1 (no column 'text'; set text_field=COLUMN)"),
    ],
)
def test_a_wrong_column_is_one_line_with_the_remedy(tmp_path, keys, said):
    parquet.write_table(table([(image(0), 0)]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        build_table(tmp_path / "a.parquet", tmp_path / "out", **keys)
    assert "\n" not in str(raised.value)


def test_the_command_says_it_on_one_line(tmp_path):
    parquet.write_table(table([(image(0), 0)]), tmp_path / "a.parquet")
    arguments = ["source=parquet", f"input={tmp_path}/a.parquet", f"output={tmp_path}/out", "data_field=picture"]
    done = command("build", *arguments)
    assert done.returncode == 2 and done.stderr.splitlines() == [
        f"error: {tmp_path}/a.parquet: no column 'picture'; set data_field=COLUMN (it has image, label)"
    ]


def test_damaged_and_contradicting_files_are_named(tmp_path):
    (tmp_path / "in").mkdir()
    parquet.write_table(table([(image(i), i % 3) for i in range(40)]), tmp_path / "in/a.parquet", row_group_size=20)
    buffer = io.BytesIO()
    parquet.write_table(table([(image(i), i % 3) for i in range(40)]), buffer, row_group_size=20)
    whole = bytearray(buffer.getvalue())
    whole[len(whole) // 2 : len(whole) // 2 + 400] = bytes(400)
    (tmp_path / "in/b.parquet").write_bytes(whole)
    (tmp_path / "in/c.parquet").write_bytes(whole[: len(whole) // 2])
    told = "\n".join(build_table(tmp_path / "in", tmp_path / "out"))
    assert f"{tmp_path}/in/c.parquet" in told and "b.parquet" in told
    assert {key for key in keys_of(tmp_path / "out") if key.startswith("a/")} == {
        f"a/{group}-{row}" for group in range(2) for row in range(20)
    }
    parquet.write_table(table([(image(1), 0)], names=["x", "y"]), tmp_path / "in/d.parquet")
    with pytest.raises(ValueError, match="/d.parquet has other names for the classes in 'label' than .*/a.*damaged"):
        build_table(tmp_path / "in", tmp_path / "out2")


def test_two_columns_of_images_are_not_guessed_between(tmp_path):
    rows = pyarrow.array([image(0)], FILES)
    parquet.write_table(pyarrow.table({"left": rows, "right": rows}), tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match=r"several columns of images or recordings: left, right; set data_field=COLUMN"
    ):
        build_table(tmp_path / "a.parquet", tmp_path / "out")
    assert "1 samples" in build_table(tmp_path / "a.parquet", tmp_path / "out", data_field="right")[-1]
