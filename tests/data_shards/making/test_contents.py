"""Classes and flaws of samples, counted in one process or several."""

import io
import tarfile
from collections import Counter

import numpy as np
import pytest

from data_shards.making.contents import Contents, class_lines, flaw_lines, look
from data_shards.making.indexer import index_shards
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards.index import load_index
from data_shards.shards.index_file import FolderIndex
from data_shards.speech.audio import flac
from tests.data_shards.http_store import serve
from tests.data_shards.shard_tools import damage, encoded, make_shards, member

SILENCE = flac(np.zeros(20_000, np.int16))


def looked(pattern, chosen=None, deep=False, workers=1):
    index = load_index(pattern)
    return look(index, range(len(index.paths)), chosen, deep, workers)


def lines(contents, names=("a", "b", "c"), some=False):
    return [" ".join(line.split()) for line in class_lines(contents, names, some)]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("modality", ["vision", "speech", "text"])
def test_every_class_has_its_count(tmp_path, modality, deep):
    contents = looked(make_shards(tmp_path, (8, 5), modality=modality), deep=deep)
    assert contents.looked == 13 and contents.labels == {0: 5, 1: 4, 2: 4}
    assert lines(contents) == ["classes 3:", "0: a 5 38.5%", "1: b 4 30.8%", "2: c 4 30.8%"]


def test_some_samples_and_several_processes_give_the_same_counts(tmp_path):
    pattern = make_shards(tmp_path, (8, 5, 4))
    damage(tmp_path, (1, 2))
    one, two = (looked(pattern, deep=True, workers=workers) for workers in (1, 2))
    assert one == two and one.flaws["damaged"].count == 2 and len(one.ids) == 15
    some = looked(pattern, np.array([0, 7, 8, 16]), deep=True)
    assert some.looked == 4 and some.ids == [0, 7, 8, 16]
    assert lines(some, some=True)[0] == "classes 3, among 4 samples:"


def test_counting_classes_reads_headers_alone(tmp_path):
    pattern = make_shards(tmp_path, (8,))
    damage(tmp_path, (1,))  # in the image
    assert sum(looked(pattern).labels.values()) == 8


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_classes_of_tars_that_others_wrote(tmp_path, form):
    with tarfile.open(tmp_path / "x-0.tar", "w", format=form) as tar:
        for key in range(3):
            for name, content in (("jpg", encoded(key)), ("cls", b"1")):
                info = tarfile.TarInfo(f"{'long' * 40}/{key}.{name}")
                info.size, info.mtime = len(content), 1.5
                tar.addfile(info, io.BytesIO(content))
    index_shards(str(tmp_path))
    assert looked(str(tmp_path)).labels == {1: 3}


def test_classes_of_remote_shards(tmp_path):
    make_shards(tmp_path, (8, 5))
    with serve(tmp_path) as store:
        assert looked(f"{store.url}/train-{{000000..000001}}.tar").labels == {0: 5, 1: 4, 2: 4}


def test_flaws_are_named_with_the_first_samples(tmp_path):
    good = {**member(0, "speech"), "cls": b"0"}
    samples = [
        ("a", good),
        *((f"s{i}", {"flac": SILENCE}) for i in range(5)),
        ("bad", {"flac": b"x"}),
        ("t", {"txt": b""}),
    ]
    save_folder_index(tmp_path, FolderIndex((write_shard(tmp_path / "a-0.tar", samples),), ("x",)))
    contents = looked(str(tmp_path), deep=True)
    assert list(flaw_lines(contents)) == [
        "  attention  2 of 8 samples are damaged: bad (a-0.tar), key 't' (row 7) (a-0.tar)",
        "  attention  5 of 8 samples are silent: s0 (a-0.tar), s1 (a-0.tar), s2 (a-0.tar), ...",
    ]
    assert lines(contents, ("x",))[-1] == "attention 7 of 8 samples have no class"


def test_a_clean_data_set_is_told_so(tmp_path):
    contents = looked(make_shards(tmp_path, (4,)), deep=True)
    assert list(flaw_lines(contents)) == ["  decoded    4 samples: none is damaged, silent, empty or of one colour"]
    assert list(flaw_lines(looked(str(tmp_path)))) == []


def test_unequal_empty_and_single_classes_are_told():
    contents = Contents(121, labels=Counter({0: 100, 1: 10, 2: 1, 9: 10}))
    told = [line for line in lines(contents, ("a", "b", "c", "d")) if line.startswith("attention")]
    assert told == [
        "attention 1 of 5 classes have no sample: 3: d",
        "attention 1 of 5 classes have one sample: 2: c",
        "attention unequal classes: 0: a has 100 samples, 100 times as many as 2: c",
    ]
    assert "9, without a name 10 8.3%" in lines(contents, ("a", "b", "c", "d"))
    equal = Contents(109, labels=Counter({0: 99, 1: 10}))
    assert not any("attention" in line for line in lines(equal, ("a", "b")))
    assert lines(Contents(3, unlabelled=3), ()) == []
