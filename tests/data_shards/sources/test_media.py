"""Files of images and recordings: what a finished shard depends on, and members beside the content."""

import os

from data_shards.sources.images import Images
from data_shards.sources.media import Encoded, MediaFile
from data_shards.sources.recordings import Recordings
from data_shards.sources.units import LeftOut
from tests.data_shards.shard_tools import clip, encoded


def test_facts_are_those_of_shards_that_are_finished_already():
    image = MediaFile("a/b", "/in/a/b.JPG", 3, 9, Images(), 1)
    assert image.facts() == ("a/b", ".JPG", 3, 1, None, 9, True)
    recording = MediaFile("a/b", "/in/a/b.FLAC", 3, 9, Recordings(0.5), 1, "said")
    assert recording.facts() == ("a/b", "flac", 3, 9, 1, "said", 0.5, None, 2)


def test_content_without_an_extension_gets_that_of_its_format():
    for kind, name in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")):
        source = Encoded("k", "here", "", encoded(0, kind), 4, "said")
        assert [*Images().samples(source, LeftOut())] == [("k", {name: source.data, "cls": b"4", "txt": b"said"})]
    assert [*Recordings().samples(Encoded("k", "here", "", clip(0, 2000)), LeftOut())][0][1].keys() == {"flac"}


def test_a_file_that_cannot_be_read_is_named_for_a_later_build(tmp_path):
    os.mkdir(tmp_path / "a.png")
    left_out = LeftOut()
    assert [*MediaFile("a", str(tmp_path / "a.png"), 4096, 0, Images()).samples(left_out)] == []
    assert left_out.worth_retrying
