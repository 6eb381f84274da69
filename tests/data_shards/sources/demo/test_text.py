"""The demo's glosses: classes for nouns, and splits without a common gloss."""

import re

from configs.schema_commands import BuildConfig
from data_shards.making.build import build
from data_shards.shards.index import load_index
from data_shards.sources.demo import text as demo_text
from data_shards.text.tokens import read_tokens
from tests.data_shards.shard_tools import members


def write_text(folder):
    """300 made-up glosses, of nouns but for every third."""
    folder.mkdir(parents=True)
    for name, kind, count in (("noun", "n", 200), ("verb", "v", 100), ("adj", "a", 0), ("adv", "r", 0)):
        lines = ["  1 a licence | with bars"]
        lines += [f"{i:08d} {3 + i % 26:02d} {kind} 01 word 0 000 | thing {i}; 'an example'  " for i in range(count)]
        (folder / f"data.{name}").write_text("\n".join(lines) + "\n")
    return folder


def test_text_has_classes_for_nouns_alone_and_no_gloss_in_two_splits(tmp_path):
    folder = write_text(tmp_path / "set")
    build(BuildConfig(source="demo_text", input=str(folder), output=str(tmp_path / "out"), workers=1, vocab_size=300))
    train, probe, test = (members(tmp_path / "out", name) for name in ("train", "probe", "test"))
    ids = [{bytes(read_tokens(sample.members["npy"])) for sample in some} for some in (train, probe, test)]
    assert ids[1] <= ids[0] and not ids[2] & ids[0]
    assert len(probe) + len(test) == 200 and 5 < len(test) < 60
    index = load_index(f"{tmp_path}/out")
    assert index.classes == demo_text.SUPERSENSES and index.tokenizer.vocab_size == 300
    for sample in (*probe, *test):
        assert int(sample.members["cls"]) == int(re.search(r"n(\d+)$", sample.key)[1]) % 26
    assert not any("cls" in sample.members for sample in train)
