"""A table is one of images, of recordings or of texts, as its first readable file says."""

import pyarrow
import pytest
from pyarrow import parquet

from tests.data_shards.making.test_build import keys_of
from tests.data_shards.sources.tables.test_parquet_media import build_table, image, table
from tests.data_shards.sources.test_texts import article


def test_a_damaged_first_file_does_not_decide(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.parquet").write_bytes(b"PAR1 no more")
    parquet.write_table(table([(image(i), i % 3) for i in range(5)]), tmp_path / "in/b.parquet")
    told = "\n".join(build_table(tmp_path / "in", tmp_path / "out"))
    assert "a.parquet (" in told and len(keys_of(tmp_path / "out")) == 5


def test_texts_beside_a_column_of_images_are_built_if_they_are_asked_for(tmp_path):
    pictures = table([(image(i), i) for i in range(3)])
    both = pictures.append_column("text", pyarrow.array([article(i) for i in range(3)]))
    parquet.write_table(both, tmp_path / "a.parquet")
    assert "tokens" in build_table(tmp_path / "a.parquet", tmp_path / "texts", modality="text", vocab_size=300)[-1]
    build_table(tmp_path / "a.parquet", tmp_path / "out")
    assert {sample["txt"].decode() for sample in keys_of(tmp_path / "out").values()} == {
        article(i).strip() for i in range(3)
    }


def test_files_of_which_none_can_be_read_are_no_texts_if_images_are_asked_for(tmp_path):
    for name, source in (("a.parquet", "parquet"), ("a.jsonl", "jsonl")):
        (tmp_path / name).write_bytes(b"no table")
        with pytest.raises(ValueError, match=f"holds no {source} file that can be read, as .*/{name}"):
            build_table(tmp_path / name, tmp_path / "out", source=source, modality="vision")
