from data_shards.making.info import describe
from tests.data_shards.shard_tools import command, encoded, make_shards


def test_counts_sizes_and_a_histogram_from_the_index(tmp_path):
    make_shards(tmp_path / "v", (3, 5))
    make_shards(tmp_path / "t", (4,), modality="text")
    images, texts = "\n".join(describe(str(tmp_path / "v"))), "\n".join(describe(str(tmp_path / "t")))
    assert "shards     2: " in images and "samples    8: " in images and "classes    3: a, b, c" in images
    assert "total      0.016 megapixels" in images and "tokenizer" not in images
    bars = [line.split() for line in texts.splitlines() if "#" in line]
    assert "tokenizer  300 types" in texts and "tokens" in texts and sum(int(bar[-1]) for bar in bars) == 4


def test_groups_by_folder_and_name_with_a_sum(tmp_path):
    for name in ("a", "b"):
        make_shards(tmp_path / name, (2,), modality="speech")
    lines = describe((str(tmp_path / "a"), str(tmp_path / "b")))
    assert sum("hours" in line for line in lines) == 2
    assert lines[-1].startswith("in all: 4 samples in 2 shards, ")


def test_unreadable_samples_and_warnings_are_told(tmp_path):
    from data_shards.making.writer import save_folder_index, write_shard
    from data_shards.shards.index_file import FolderIndex

    samples = [("a", {"jpg": encoded(0)}), ("b", {"jpg": b"none"})]
    save_folder_index(tmp_path, FolderIndex((write_shard(tmp_path / "a-0.tar", samples),)))
    with (tmp_path / "a-0.tar").open("ab") as file:
        file.write(bytes(512))
    done = command("info", f"shards={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "unreadable 1 samples have length 0" in done.stdout
    assert "warning: " in done.stdout.splitlines()[-1] and "its index says" in done.stdout
