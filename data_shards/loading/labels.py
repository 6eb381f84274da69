"""Labels and transcripts that lie beside a sample in its shard."""

from __future__ import annotations

from typing import Literal

from data_shards.shards.bad_sample import BadSample
from data_shards.shards.tar import Members

LabelMember = Literal["cls", "txt"]
"""`cls`: the number of the sample's class; `txt`: its transcript."""


def read_label(members: Members) -> int:
    """Return the number of the class. Raises BadSample if there is none."""
    try:
        return int(members["cls"])
    except (KeyError, ValueError):
        raise BadSample("member", "no class number (member .cls)") from None


def read_transcript(members: Members) -> str:
    """Return the transcript. Raises BadSample if there is none, or if it is not UTF-8."""
    if "txt" not in members:
        raise BadSample("member", "no transcript (member .txt)")
    try:
        return bytes(members["txt"]).decode()
    except UnicodeDecodeError:
        raise BadSample("decode", "the transcript (member .txt) is not UTF-8") from None
