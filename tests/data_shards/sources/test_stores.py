"""Archives and remote folders, read in place: the samples of the same local folder, and everything else by name."""

import io
import tarfile
import zipfile

import fsspec
import numpy as np
import pytest

from configs.command import code_of
from configs.schema_commands import BuildConfig
from data_shards.making.build import build
from data_shards.shards.storage import Unreachable
from data_shards.sources import stores
from data_shards.sources.stores import store_of
from tests.data_shards.shard_tools import clip, encoded, make_images, tree


def built(source, target, kind="imagefolder", **keys):
    return "\n".join(build(BuildConfig(source=kind, input=str(source), output=str(target), workers=1, **keys)))


def tars(folder):
    return {name: content for name, content in tree(folder).items() if name.endswith((".tar", ".npy", "index.json"))}


def zipped(folder, target, prefix=""):
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*"), reverse=True):
            archive.write(path, f"{prefix}{path.relative_to(folder)}")
    return target


def tarred(folder, target, prefix=""):
    with tarfile.open(target, "w") as archive:
        archive.add(folder, f"{prefix}")
    return target


@pytest.fixture
def remote():
    """A folder of fsspec's memory, gone at the end."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


@pytest.mark.parametrize("prefix", ["", "photos/"])
def test_archives_give_the_bytes_of_the_folder(tmp_path, prefix):
    images = make_images(tmp_path / "images")
    built(images, tmp_path / "folder")
    for archive in (zipped(images, tmp_path / "a.zip", prefix), tarred(images, tmp_path / "a.tar", prefix or ".")):
        said = built(archive, tmp_path / f"from {archive.name}")
        assert tars(tmp_path / f"from {archive.name}") == tars(tmp_path / "folder"), said


def test_a_remote_folder_gives_the_bytes_of_the_folder(tmp_path, remote):
    images = make_images(tmp_path / "images")
    remote.put(str(images), "/bucket/pictures", recursive=True)
    built(images, tmp_path / "folder")
    built("memory://bucket/pictures", tmp_path / "remote")
    assert tars(tmp_path / "remote") == tars(tmp_path / "folder")
    assert "memory" not in (tmp_path / "remote/index.json").read_text()


def test_transcripts_and_classes_of_recordings_are_found_in_stores(tmp_path, remote):
    folder = tmp_path / "speech"
    for speaker in ("a", "b"):
        (folder / speaker).mkdir(parents=True)
        for i in range(3):
            (folder / speaker / f"{speaker}-{i}.flac").write_bytes(clip(i, 4000))
        (folder / speaker / f"{speaker}.trans.txt").write_text(f"{speaker}-0 ONE\n{speaker}-1 TWO\n")
        (folder / speaker / f"{speaker}-2.txt").write_text("three\n")
    built(folder, tmp_path / "folder", "audiofolder")
    remote.put(str(folder), "/speech", recursive=True)
    for source in (zipped(folder, tmp_path / "a.zip"), tarred(folder, tmp_path / "a.tar", "."), "memory://speech"):
        output = tmp_path / f"out {str(source)[-5:].strip('/')}"
        built(source, output, "audiofolder")
        assert tars(output) == tars(tmp_path / "folder")


def test_a_damaged_transcript_in_an_archive_is_named(tmp_path):
    said = b"WORDS THAT NOBODY SAID TWICE"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i in range(2):
            archive.writestr(f"{i}.flac", clip(i, 4000))
        archive.writestr("0.txt", said)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(said)] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    built(tmp_path / "a.zip", tmp_path / "out", "audiofolder")
    left_out = (tmp_path / "out/.build/train/left_out.tsv").read_text()
    assert "damaged in the archive\t0.txt (transcripts; " in left_out, left_out


def test_what_an_archive_holds_beside_images_is_named(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(4):
            archive.writestr(f"cat/{i}.png", encoded(i, "png"))
        archive.writestr("cat/../../../etc/passwd.png", b"x")
        archive.writestr("/root.png", b"x")
        archive.writestr("__MACOSX/._0.png", b"x")
        archive.writestr("cat/notes.doc", b"x")
        archive.writestr("cat/empty.png", b"")
        archive.writestr("cat/broken.png", encoded(9, "png"))
        archive.writestr("cat/locked.png", encoded(9, "png"))
    data = bytearray(path.read_bytes())
    place = data.index(encoded(9, "png"))
    data[place + 40] ^= 255  # of broken.png, the first of the two
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of locked.png
        start = data.rindex(b"cat/locked.png") if offset == 8 else data.index(b"cat/locked.png")
        data[data.rindex(signature, 0, start) + offset] |= 1
    path.write_bytes(data)
    built(path, tmp_path / "out")
    left_out = (tmp_path / "out/.build/train/left_out.tsv").read_text()
    for reason, name in (
        ("a name that leads out of the archive", "cat/../../../etc/passwd.png"),
        ("a name that leads out of the archive", "/root.png"),
        ("hidden", "__MACOSX/._0.png"),
        ("0 bytes", "cat/empty.png"),
        ("encrypted in the archive", "cat/locked.png"),
        ("damaged in the archive", "cat/broken.png"),
    ):
        assert f"{reason}\t{path}/{name}" in left_out, left_out


def test_of_a_cut_off_tar_the_files_before_the_end_are_built(tmp_path):
    images = make_images(tmp_path / "images")
    whole = tarred(images, tmp_path / "a.tar", ".").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: len(whole) // 2])
    built(tmp_path / "a.tar", tmp_path / "out")
    assert "damaged in the archive" in (tmp_path / "out/.build/train/left_out.tsv").read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", b"PK\x03\x04 and no more", "a.zip cannot be read as a zip archive .*: get it again"),
        ("a.tar", b"no tar", "a.tar cannot be read as a tar archive .*: get it again"),
        ("a.tar.gz", b"x", "a.tar.gz is compressed as a whole.*make it a .tar"),
        ("absent.zip", None, "absent.zip is not there: give a folder, an archive or a URL"),
    ],
)
def test_archives_that_cannot_be_read_are_mistakes(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        built(tmp_path / name, tmp_path / "out")


def test_an_archive_behind_a_url_is_to_be_copied_first():
    with pytest.raises(ValueError, match="archives are read from local disks: copy it here"):
        store_of("s3://bucket/photos.zip")


def test_folders_over_http_are_refused_with_what_works():
    with pytest.raises(ValueError, match="input=https://x/photos: HTTP lists no folders: copy the files here"):
        store_of("https://x/photos")


def test_an_outage_ends_the_build_and_the_same_command_goes_on(tmp_path, remote, monkeypatch):
    images = make_images(tmp_path / "images")
    remote.put(str(images), "/pictures", recursive=True)
    read, calls = stores.Remote.read, []

    def failing(store, name):
        calls.append(name)
        if len(calls) > 5:
            raise Unreachable("the store is away")
        return read(store, name)

    monkeypatch.setattr(stores.Remote, "read", failing)
    with pytest.raises(Unreachable) as error:
        built("memory://pictures", tmp_path / "out", shard_mb=1)
    assert code_of(error.value) == 76 and not list((tmp_path / "out").glob("*.tar"))
    monkeypatch.setattr(stores.Remote, "read", read)
    built("memory://pictures", tmp_path / "out", shard_mb=1)
    built(images, tmp_path / "folder", shard_mb=1)
    assert tars(tmp_path / "out") == tars(tmp_path / "folder")


def test_a_url_with_nothing_below_it_is_a_mistake(tmp_path, remote):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        built("memory://nothing/here", tmp_path / "out")
    assert "memory://nothing/here" in str(error.value)


def test_a_store_that_changed_meanwhile_is_told(tmp_path, remote):
    remote.pipe("/x/1.png", encoded(1, "png"))
    (file,) = stores.Remote("memory://x").entries()
    assert file.size == len(encoded(1, "png"))
    remote.rm("/x/1.png")
    with pytest.raises(ValueError, match="memory://x: 1.png went away during the build; build again"):
        stores.Remote("memory://x").read("1.png")
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    remote.pipe("/x/2.png", buffer.getvalue())
    before = {entry.version for entry in stores.Remote("memory://x").entries()}
    remote.pipe("/x/2.png", buffer.getvalue())
    assert before != {entry.version for entry in stores.Remote("memory://x").entries()}
