import numpy as np
import pytest
import webdataset

from configs.schema import frames
from data_shards.index import load_index, read_rows, sidecar
from data_shards.indexer import index_shards
from data_shards.reader import Reader
from data_shards.tar import END, sample_blocks
from data_shards.tokenizer import train_tokenizer
from data_shards.validate import validate_shards
from tests.data_shards.shard_tools import clip, command, encoded, make_shards, tree


def foreign(path, keys):
    """A shard by webdataset's writer, with its float times and pax headers."""
    with webdataset.TarWriter(str(path)) as writer:
        for i, key in enumerate(keys):
            writer.write({"__key__": key, "jpg": encoded(i), "cls": i})


def test_tars_of_others_are_read_like_webdataset_reads_them(tmp_path):
    foreign(tmp_path / "x0.tar", ["a", "b", "c"])
    foreign(tmp_path / "x1.tar", ["d" * 150, "e"])
    index_shards(f"{tmp_path}/*.tar")
    index = load_index(f"{tmp_path}/*.tar")
    reader = Reader(index)
    ours = [reader.read(i) for i in range(index.samples)]
    theirs = webdataset.WebDataset([str(tmp_path / "x0.tar"), str(tmp_path / "x1.tar")], shardshuffle=False)
    assert [(s.key, s.members["jpg"], s.members["cls"]) for s in ours] == [
        (s["__key__"], s["jpg"], s["cls"]) for s in theirs
    ]
    assert validate_shards(str(tmp_path)) == ([], 2)


def test_indexing_again_gives_what_the_build_wrote(tmp_path):
    pattern = make_shards(tmp_path, (5, 0, 3))
    before = tree(tmp_path)
    for path in sorted(tmp_path.glob("*.tar")):
        sidecar(path).unlink()
    lines = index_shards(pattern)
    assert tree(tmp_path) == before
    assert any("train-000001.tar is empty" in line for line in lines)
    assert read_rows(tmp_path / "train-000000.tar")["length"].tolist() == [2] * 5  # 40 x 30 pixels


def test_recordings_and_tokens_of_others_get_their_lengths_and_tokenizer(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "x0.tar")) as writer:
        writer.write({"__key__": "a", "flac": clip(0, 4000), "txt": "said"})
        writer.write({"__key__": "b", "wav": b"damaged"})
        writer.write({"__key__": "c", "npy": np.arange(7, dtype=np.uint16)})
    index_shards(str(tmp_path))
    assert read_rows(tmp_path / "x0.tar")["length"].tolist() == [frames(4000), 0, 7]
    assert load_index(str(tmp_path)).tokenizer is None
    tokenizer = train_tokenizer(["some text"], 300)
    tokenizer.save(tmp_path / "tokenizer")
    index_shards(str(tmp_path))
    assert load_index(str(tmp_path)).tokenizer == tokenizer.entry


def test_keys_in_two_shards_are_refused(tmp_path):
    foreign(tmp_path / "x0.tar", ["a", "b"])
    foreign(tmp_path / "x1.tar", ["c", "b"])
    with pytest.raises(ValueError, match=r"'b' in .*x0\.tar and .*x1\.tar"):
        index_shards(str(tmp_path))
    assert not (tmp_path / "index.json").exists()


def test_the_command_refuses_a_truncated_tar_in_one_line(tmp_path):
    (tmp_path / "x.tar").write_bytes(sample_blocks("a", {"jpg": b"x" * 5000}) + END)
    assert command("index", f"shards={tmp_path}").returncode == 0
    with (tmp_path / "x.tar").open("r+b") as file:
        file.truncate(4096)
    done = command("index", f"shards={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "x.tar: truncated" in done.stderr and done.stderr.count("\n") == 1
