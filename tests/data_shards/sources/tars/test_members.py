"""Tars of any tool are read up to a damage, which is told apart from a store that fails; nothing in them is decoded."""

import bz2
import gzip
import io
import lzma
import tarfile

import numpy as np
import pytest
from backports import zstd

from data_shards.sources.tars.members import LARGEST, read_samples, unpacked
from data_shards.sources.units import LeftOut, Unusable


def tar(members, kind=tarfile.PAX_FORMAT):
    """A tar of (name, bytes), or of TarInfo without bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read(path, data=None):
    """(samples, what was left out by reason)."""
    if data is not None:
        path.write_bytes(data)
    left_out = LeftOut()
    return [*read_samples(str(path), left_out)], left_out.reasons


PLAIN = [("./a.JPG", b"1"), ("./a.cls", b"2"), ("b/c.jpg", b"3")]

SAMPLES = [("a", {"jpg": b"1", "cls": b"2"}), ("b/c", {"jpg": b"3"})]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize(
    "name, pack",
    [
        ("a.tar", bytes),
        ("a.tar.gz", gzip.compress),
        ("a.tar.bz2", bz2.compress),
        ("a.tar.xz", lzma.compress),
        ("a.tar.zst", zstd.compress),
    ],
)
def test_tars_of_any_form_and_compression(tmp_path, kind, name, pack):
    assert read(tmp_path / name, pack(tar(PLAIN, kind))) == (SAMPLES, {})


def test_tars_that_were_joined_are_read_to_their_end(tmp_path):
    assert read(tmp_path / "a.tar", tar(PLAIN) + tar([("d.jpg", b"4")])) == ([*SAMPLES, ("d", {"jpg": b"4"})], {})


def test_pipes_and_file_urls_are_opened(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar(PLAIN))
    for url in (f"pipe:cat {tmp_path}/a.tar", f"pipe:gzip -c {tmp_path}/a.tar", f"file:{tmp_path}/a.tar"):
        assert [*read_samples(url, LeftOut())] == SAMPLES


@pytest.mark.parametrize("name, pack", [("a.tar", bytes), ("a.tar.gz", gzip.compress), ("a.tar.bz2", bz2.compress),
                                        ("a.tar.xz", lzma.compress), ("a.tar.zst", zstd.compress)])  # fmt: skip
def test_what_is_before_a_cut_is_kept(tmp_path, name, pack):
    noise = np.random.default_rng(0).bytes(400_000)
    whole = pack(tar([("a.jpg", b"1"), ("b.jpg", noise), ("c.jpg", noise)]))
    for length in (0, 1, len(whole) // 4, len(whole) * 4 // 9):
        found, reasons = read(tmp_path / name, whole[:length])
        assert [*reasons] == ["damaged or incomplete; used up to there"] and len(found) <= 1
    if name != "a.tar.bz2":  # whose blocks are larger
        assert found == [("a", {"jpg": b"1"})]


def test_a_sample_that_is_cut_is_left_out_and_one_that_is_whole_is_not(tmp_path):
    whole = tar([("a.jpg", b"1"), ("a.txt", b"2" * 600), ("b.jpg", b"3" * 600)], tarfile.USTAR_FORMAT)
    reason = "incomplete: its tar is damaged or cut off there"
    found, reasons = read(tmp_path / "a.tar", whole[:1600])
    assert found == [] and reasons[reason] == [f"{tmp_path}/a.tar, key a"]
    found, reasons = read(tmp_path / "a.tar", whole[:3200])  # within b.jpg
    assert [key for key, _ in found] == ["a"] and reason not in reasons


def test_a_damaged_header_is_no_end_of_the_archive(tmp_path):
    data = bytearray(tar([("a.jpg", b"1"), ("b.jpg", b"2"), ("c.jpg", b"3")], tarfile.USTAR_FORMAT))
    data[1024 + 150] ^= 1  # the checksum of the second header
    found, reasons = read(tmp_path / "a.tar", data)
    assert found == []
    assert reasons == {
        "damaged or incomplete; used up to there": [f"{tmp_path}/a.tar (damaged header: bad checksum)"],
        "incomplete: its tar is damaged or cut off there": [f"{tmp_path}/a.tar, key a"],
    }


def test_a_store_that_fails_is_no_damage(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar(PLAIN))
    half = f"pipe:head -c 4000 {tmp_path}/a.tar; exit 3"
    for url, why in (
        (half, "the command that reads it ended with 3"),
        (f"{tmp_path}/none.tar", "No such file or directory"),
        ("pipe:exit 5", "the command that reads it ended with 5"),
        ("nosuch://x/a.tar", "cannot be opened: .*"),
    ):
        left_out = LeftOut()
        samples = [*read_samples(url, left_out)]
        assert left_out.worth_retrying
        assert sorted(left_out.reasons)[-1].startswith(f"unreadable: {why.partition('.*')[0]}")
        assert url == half or samples == []


def test_members_of_no_sample_are_named(tmp_path):
    link, folder = tarfile.TarInfo("l.jpg"), tarfile.TarInfo("d.jpg")
    link.type, link.linkname, folder.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.DIRTYPE
    members = [
        (".DS_Store", b"1"), ("b/._c.jpg", b"2"), ("LICENSE", b"3"), ("__meta__/x.json", b"4"), (link, b""),
        (folder, b""), ("a.jpg", b"5"), ("a.JPG", b"6"),
    ]  # fmt: skip
    found, reasons = read(tmp_path / "a.tar", tar(members))
    assert found == [("a", {"jpg": b"5"})]
    assert {why: len(names) for why, names in reasons.items()} == {
        "members of no sample: hidden, or without an extension": 4,
        "no plain file (a link, a device, sparse)": 1,
        "a member that is there twice; the first is used": 1,
    }


def test_a_reader_that_has_seen_enough_waits_for_nothing(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar(PLAIN))
    samples = read_samples(f"pipe:cat {tmp_path}/a.tar /dev/zero", LeftOut())
    assert next(samples) == SAMPLES[0]
    samples.close()


def test_gzip_members_are_unpacked_within_a_limit():
    assert unpacked("jpg.gz", gzip.compress(b"1") + gzip.compress(b"2")) == b"12" and unpacked("jpg", b"1") == b"1"
    for data, reason in ((b"no gzip", "damaged gzip"), (gzip.compress(b"1" * 99)[:-9], "damaged gzip")):
        with pytest.raises(Unusable, match=reason):
            unpacked("jpg.gz", data)
    with pytest.raises(Unusable, match="larger than 256 MiB"):
        unpacked("jpg.gz", gzip.compress(bytes(LARGEST + 1), 1))
