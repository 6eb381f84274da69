"""The streams of a recording, by its first bytes."""

from __future__ import annotations

from data_shards.shards.tar import Data
from data_shards.speech.containers.chunked import MAGICS, chunked_stream
from data_shards.speech.containers.flac import flac_streams
from data_shards.speech.containers.mpeg import mpeg_stream
from data_shards.speech.containers.ogg import ogg_streams
from data_shards.speech.containers.stream import Stream, tag_size


def streams(data: Data) -> list[Stream]:
    """Return the streams of a recording, one after another. Raises ValueError if one is cut off or damaged.

    Bytes of an unknown kind are one stream, which libsndfile refuses.
    """
    start = tag_size(bytes(data[:10]))
    magic = bytes(data[start : start + 4])
    if magic == b"fLaC":
        return flac_streams(data, start)
    if magic == b"OggS":
        return ogg_streams(data[start:])
    if magic in MAGICS:
        return [chunked_stream(data[start:])]
    if start or (magic[:1] == b"\xff" and magic[1:2] >= b"\xe0"):
        return [mpeg_stream(data)]
    return [Stream(data)]
