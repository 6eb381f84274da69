"""Across shards and making. GNU tar, plain webdataset and our reader see the same samples, or the shard is refused."""

import io
import pickle
import subprocess
import tarfile

import pytest
import webdataset

from data_shards.making.indexer import index_shards
from data_shards.making.validate import validate_shards
from data_shards.shards.index import load_index
from data_shards.shards.reader import Reader
from tests.data_shards.shard_tools import build_folder, clip, command, encoded


def ours(shards):
    index = load_index(shards)
    reader = Reader(index)
    return {sample.key: dict(sample.members) for sample in map(reader.read, range(index.samples))}


def theirs(paths):
    dataset = webdataset.WebDataset(sorted(map(str, paths)), shardshuffle=False, handler=webdataset.reraise_exception)
    samples = list(dataset)
    found = {s["__key__"]: {name: data for name, data in s.items() if not name.startswith("__")} for s in samples}
    assert len(found) == len(samples)
    return found


def unpacked(paths, folder):
    """Samples as GNU tar unpacks them."""
    folder.mkdir()
    for path in paths:
        listed = subprocess.run(["tar", "tf", path, "--quoting-style=literal"], capture_output=True, check=True).stdout
        with tarfile.open(path) as archive:
            assert listed.decode().splitlines() == archive.getnames()
        subprocess.run(["tar", "xf", path, "-C", folder], check=True)
    found: dict[str, dict[str, bytes]] = {}
    for path in (path for path in folder.rglob("*") if path.is_file()):
        found.setdefault(str(path.relative_to(folder).with_suffix("")), {})[path.suffix[1:]] = path.read_bytes()
    return found


def test_our_shards_are_the_same_for_all(tmp_path):
    images = tmp_path / "images"
    for name in ("plain", "v1.0", "ünï 漢", "a #?[x]{y,z} %20&*", "x" * 90, "__meta__"):
        (images / name).mkdir(parents=True)
        for i in range(40):
            (images / name / f"{name[:3]}{i}.jpg").write_bytes(encoded(i))
    build_folder(images, tmp_path / "out", shard_mb=1)
    paths = sorted((tmp_path / "out").glob("*.tar"))
    samples = ours(str(tmp_path / "out"))
    assert len(samples) == 240 and samples == theirs(paths) == unpacked(paths, tmp_path / "unpacked")


def test_shards_of_webdatasets_writer_are_the_same(tmp_path):
    with webdataset.ShardWriter(f"{tmp_path}/x-%04d.tar", maxcount=7, verbose=0) as writer:
        for i in range(20):
            name = "d" * (150 * (i % 2)) + f"é/{i:03d}"  # longer than a ustar name, and not ASCII
            writer.write({"__key__": name, "jpg": encoded(i), "cls": i, "flac": clip(i), "json": {"i": i}, "txt": "ü"})
    paths = sorted(tmp_path.glob("*.tar"))
    assert b"mtime=" in paths[0].read_bytes()[:1536]  # pax headers for float times
    assert index_shards(str(tmp_path))[1] == []
    assert ours(str(tmp_path)) == theirs(paths) and len(ours(str(tmp_path))) == 20
    assert validate_shards(str(tmp_path), deep=True, workers=1) == ([], 3)


def write_tar(path, *names):
    with tarfile.open(path, "w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name.encode())
            archive.addfile(info, io.BytesIO(name.encode()))


REFUSED = {
    "dotted keys": (["a.b.jpg", "a.c.jpg"], "more than one dot"),
    "case": (["p.JPG", "p.jpg"], "two members .jpg"),
    "interleaved": (["k.cls", "l.cls", "k.jpg", "l.jpg"], "comes twice"),
    "duplicate": (["k.cls", "l.cls", "k.cls"], "comes twice"),
    "note with a dot": (["__meta__/x.jpg", "y.jpg"], "webdataset skips names that begin so"),
    "dot at the end": (["x.", "y.jpg"], "is not named KEY.ext"),
}
READ = {
    "dots in folders": ["v1.0/a.b/x.jpg", "v1.0/a.c/x.jpg"],
    "underscores": ["a/__meta__/x.jpg", "__index__.json"],
    "odd characters": ["a #?[x]{y,z} %20&*/ü 漢#?.jpg", "::/b c.jpg"],
    "several members": ["a.cls", "a.jpg", "b.cls", "b.jpg", "d/a.jpg"],
    "same name, other folder": ["a/0.jpg", "b/0.jpg"],
}
SKIPPED = {
    "hidden": ["._x.jpg", "x.jpg", "d/.DS_Store", "d/y.jpg", ".x"],
    "hidden between members of one key": ["._x.cls", "x.cls", "._x.jpg", "x.jpg", "LICENSE", "x.txt", "y.jpg"],
    "no dot": ["LICENSE", "y.jpg", "d/README"],
    "note": ["__meta__/x", "y.jpg"],
}


@pytest.mark.parametrize("trap", REFUSED)
def test_names_that_readers_lose_or_merge_are_refused(tmp_path, trap):
    names, words = REFUSED[trap]
    write_tar(tmp_path / "x.tar", *names)
    lines, refused = index_shards(str(tmp_path))
    assert lines == [] and len(refused) == 1
    assert refused[0].startswith(f"{tmp_path}/x.tar: ") and words in refused[0]


@pytest.mark.parametrize("trap", READ)
def test_odd_names_are_read_as_webdataset_reads_them(tmp_path, trap):
    write_tar(tmp_path / "x.tar", *READ[trap])
    assert index_shards(str(tmp_path))[1] == []
    samples = ours(str(tmp_path))
    assert samples == theirs([tmp_path / "x.tar"])
    assert sorted(data.decode() for members in samples.values() for data in members.values()) == sorted(READ[trap])


@pytest.mark.parametrize("trap", SKIPPED)
def test_members_that_are_no_samples_are_skipped_and_counted(tmp_path, trap):
    names = SKIPPED[trap]
    write_tar(tmp_path / "x.tar", *names)
    lines, refused = index_shards(str(tmp_path))
    foreign = [name for name in names if name.split("/")[-1].startswith(".") or "." not in name]
    more = ", ..." if len(foreign) > 3 else ""
    shown = ", ".join(map(repr, foreign[:3])) + more
    assert refused == []
    assert f"{tmp_path}/x.tar: skipped {len(foreign)} members that are hidden or no KEY.ext: {shown}" in lines
    samples = ours(str(tmp_path))
    # A hidden file of a folder is to webdataset a member of the sample `FOLDER/`, without a name.
    assert samples == {key: found for key, found in theirs([tmp_path / "x.tar"]).items() if key[-1] != "/"}
    read = [data.decode() for members in samples.values() for data in members.values()]
    assert sorted(read + foreign) == sorted(names)
    assert validate_shards(str(tmp_path), workers=1) == ([], 1)


def test_a_tar_of_skipped_members_alone_is_empty(tmp_path):
    write_tar(tmp_path / "x.tar", "x", ".y.jpg")
    assert index_shards(str(tmp_path))[0][:2] == [
        f"{tmp_path}/x.tar: skipped 2 members that are hidden or no KEY.ext: 'x', '.y.jpg'",
        f"warning: {tmp_path}/x.tar is empty: 0 samples",
    ]


@pytest.mark.parametrize("name", ["a #1?b", "{x}", "{0..3}", "[ab]c", "ü 漢 %20&", "$HOME::x", "~x", "a,b", "*"])
def test_odd_folders_are_built_indexed_validated_and_read(tmp_path, name):
    images, output = tmp_path / "images" / name, tmp_path / name
    images.mkdir(parents=True)
    for i in range(3):
        (images / f"{i}.jpg").write_bytes(encoded(i))
    build_folder(images, output)
    shard = f"{output}/train-000000.tar"
    for pattern in (str(output), shard, f"{output}/train-*.tar", (shard,), (f"{output}/train-00000{{0..0}}.tar",)):
        assert set(ours(pattern)) == {"0", "1", "2"}, pattern
    assert index_shards(str(output))[1] == [] and validate_shards((str(output),)) == ([], 1)


def test_the_command_line_takes_odd_folders_and_lists(tmp_path):
    output = tmp_path / "a #1?[b] {c} ü"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.jpg").write_bytes(encoded(0))
    build_folder(tmp_path / "images", output)
    build_folder(tmp_path / "images", tmp_path / "plain")
    for shards in (str(output), f"[{tmp_path}/plain]"):
        done = command("validate", f"shards={shards}")
        assert (done.returncode, done.stdout) == (0, "1 shards are as their index says\n"), done.stderr


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_members_that_could_run_something_are_bytes(tmp_path):
    trap = pickle.dumps(Trap())
    members = {name: trap for name in ("pyd", "pickle", "pkl", "pth", "pt")} | {"jpg": encoded(0)}
    with webdataset.TarWriter(str(tmp_path / "x.tar"), encoder=False) as writer:
        writer.write({"__key__": "a", **members})
    assert index_shards(str(tmp_path))[1] == []
    assert ours(str(tmp_path)) == {"a": members}
    assert validate_shards(str(tmp_path), deep=True, workers=1) == ([], 1)
