import io
import tarfile

import pytest
import webdataset

from data_shards.shards.tar import (
    END,
    _header,
    member_header,
    parse_sample,
    read_member,
    sample_blocks,
    scan,
    split_name,
)

SAMPLES = [(f"folder/{i:03d}", {"cls": str(i).encode(), "jpg": bytes(range(256)) * (i + 1)}) for i in range(20)]
BLOCKS = [sample_blocks(key, members) for key, members in SAMPLES]


def archive(tmp_path, data=None):
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join(BLOCKS) + END if data is None else data)
    return path


@pytest.mark.parametrize("name", ["a/b.jpg", "é" * 20 + ".jpg", "x" * 100, "folder/" * 20 + "x.jpg"])
def test_headers_are_those_of_tarfile(name):
    assert member_header(name, 12345) == _header(name, 12345)
    assert tarfile.TarInfo.frombuf(member_header(name, 12345), "utf-8", "strict").size == 12345


def test_webdataset_reads_the_same_samples(tmp_path):
    dataset = webdataset.WebDataset(str(archive(tmp_path)), shardshuffle=False)
    read = [(s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")}) for s in dataset]
    assert read == SAMPLES


def test_scan_and_parse_find_what_was_written(tmp_path):
    path = archive(tmp_path)
    spans = scan(path)
    data = path.read_bytes()
    assert [parse_sample(data[span.offset :][: span.size]) for span in spans] == SAMPLES
    assert [span.key for span in spans] == [key for key, _ in SAMPLES]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_other_formats_folders_and_long_names_are_understood(tmp_path, form):
    path = tmp_path / "b.tar"
    names = [f"d/{'x' * (60 if form == tarfile.USTAR_FORMAT else 130)}{i}.txt" for i in range(3)]
    with tarfile.open(path, "w", format=form) as tar:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 700, 1.5 if form == tarfile.PAX_FORMAT else 1
            tar.addfile(info, io.BytesIO(b"t" * 700))
    data = path.read_bytes()
    parsed = [parse_sample(data[span.offset :][: span.size]) for span in scan(path)]
    assert parsed == [(name.removesuffix(".txt"), {"txt": b"t" * 700}) for name in names]


def zeroed(data, start, count=512):
    return data[:start] + bytes(count) + data[start + count :]


WHOLE = b"".join(BLOCKS) + END
MIDDLE = sum(map(len, BLOCKS[:10]))
DAMAGE = {
    "cut between samples": WHOLE[:MIDDLE],
    "cut between a sample's members": WHOLE[: MIDDLE + 1024],
    "cut in a header": WHOLE[: MIDDLE + 100],
    "cut in data": WHOLE[: MIDDLE + 1024 + 512 + 300],
    "cut in data at a block": WHOLE[: MIDDLE + 1024 + 1024],
    "header zeroed": zeroed(WHOLE, MIDDLE),
    "header overwritten": WHOLE[:MIDDLE] + b"\xa5" * 512 + WHOLE[MIDDLE + 512 :],
    "first header overwritten": b"\xa5" * 512 + WHOLE[512:],
    "first header zeroed": zeroed(WHOLE, 0),
    "empty file": b"",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_with_the_file_named(tmp_path, kind):
    with pytest.raises(ValueError, match=r"a\.tar: (truncated|damaged)"):
        scan(archive(tmp_path, DAMAGE[kind]))


def members(*names):
    return b"".join(member_header(name, 0) for name in names) + END


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.jpg", "b.jpg", "a.jpg"], "comes twice"),
        (["k.cls", "l.cls", "k.jpg", "l.jpg"], "side by side"),
        (["a.b.jpg"], "more than one dot"),
        (["x."], "not named KEY.ext"),
        (["p.JPG", "p.jpg"], "two members"),
    ],
)
def test_names_that_readers_would_merge_or_skip(tmp_path, names, words):
    with pytest.raises(ValueError, match=rf"a\.tar: .*{words}"):
        scan(archive(tmp_path, members(*names)))


def test_links_are_refused(tmp_path):
    info = tarfile.TarInfo("a.jpg")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(ValueError, match=r"'a\.jpg' is not a plain file"):
        scan(archive(tmp_path, info.tobuf() + END))


def test_compressed_archives_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(ValueError, match="compressed .gzip."):
        scan(tmp_path / "a.tar")


def test_dots_in_folders_do_not_matter():
    assert split_name("v1.0/a.jpg") == ("v1.0/a", "jpg")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_one_member_is_read_without_the_others(form):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in (("a/b.jpg", b"x" * 5000), ("a/b.CLS", b"12"), ("a/b.txt", b"two")):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1.5e9
            tar.addfile(info, io.BytesIO(content))
    blocks, read = buffer.getvalue()[: 512 * 15], []

    def part(offset, count):
        read.append(count)
        return blocks[offset : offset + count]

    assert read_member(part, len(blocks), "cls") == b"12"
    assert sum(read) == 512 + 512 + 2
    assert read_member(part, len(blocks), "npy") is None


@pytest.mark.parametrize("name", ["x" * 150 + ".cls", "a.cls"])
def test_a_member_of_another_form_is_left_to_the_parser(name):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.pax_headers = {"comment": "é"}
        tar.addfile(info)
    blocks = buffer.getvalue()
    with pytest.raises(ValueError, match="a header of type b'x'"):
        read_member(lambda offset, count: blocks[offset : offset + count], len(blocks), "cls")
