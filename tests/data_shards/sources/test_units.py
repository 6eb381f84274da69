"""What is left out of shards is counted, named and listed."""

from data_shards.making.validate import validate_shards
from data_shards.sources.units import LeftOut
from tests.data_shards.shard_tools import build_folder, encoded, make_images


def test_everything_left_out_is_listed(tmp_path):
    images = make_images(tmp_path / "images")
    for i in range(12):
        (images / "dog" / f"broken{i:02d}.jpg").write_bytes(b"\xff\xd8 no image")
    (images / "cat" / "cut.png").write_bytes(encoded(0, "PNG")[:20])
    (images / "cat" / "odd\n\tname\udcff.txt").touch()
    (images / "cat" / "self").symlink_to("self")
    (images / "cat" / "self.jpg").symlink_to("self.jpg")
    told = "\n".join(build_folder(images, tmp_path / "out"))
    listed = tmp_path / "out" / ".build" / "train" / "left_out.tsv"
    reason = "damaged or no image"
    assert f"left out 13 ({reason}): " in told and f", ... (all in {listed})\n" in told and "16 samples" in told
    rows = [line.split(b"\t") for line in listed.read_bytes().splitlines()]
    assert [len(row) for row in rows] == [2] * 16
    names = sorted(name for why, name in rows if why == reason.encode())
    paths = [bytes(path) for path in sorted([images / "cat/cut.png", *images.glob("dog/broken*")])]
    assert all(name.startswith(path + b" (not decodable: ") for name, path in zip(names, paths, strict=True))
    assert [b"broken link or no plain file", bytes(images / "cat/self.jpg")] in rows
    assert rows[-2][1] == bytes(images) + b"/cat/odd\\n\\tname\xff.txt"
    assert told.encode() and validate_shards(str(tmp_path / "out"), deep=True, workers=1) == ([], 1)


def test_names_are_printed_without_control_characters():
    left_out = LeftOut()
    left_out.add("not there", "a\0\x1b[2J\tb\u2028c")
    assert left_out.notes() == ["left out 1 (not there): a\\x00\\x1b[2J\\tb\\x2028c"]
    assert left_out.to_tsv() == b"not there\ta\\x00\\x1b[2J\\tb\\x2028c\n"


def test_a_codec_without_words_is_called_damaged(tmp_path):
    images = make_images(tmp_path / "images")
    (images / "dog" / "cut.jpg").write_bytes(encoded(0)[:20])
    told = "\n".join(build_folder(images, tmp_path / "out"))
    assert f"{images}/dog/cut.jpg (not decodable: damaged)" in told
