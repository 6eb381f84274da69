"""Across sources and making. Source files damaged as chance does it: left out by name, or built; the good ones stay."""

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import time
import zipfile

import numpy as np
import pyarrow
import pytest
import soundfile
from pyarrow import parquet

from configs.schema_commands import BuildConfig
from data_shards.making.build import build
from data_shards.shards.index import load_index
from data_shards.sources.blocks import zstd
from data_shards.text.tokenizer import train_tokenizer
from tests.data_shards.shard_tools import clip, encoded
from tests.data_shards.sources.tables.test_parquet_media import image
from tests.data_shards.sources.tables.test_parquet_media import table as pictures_table
from tests.data_shards.sources.tars.test_members import tar
from tests.data_shards.sources.test_texts import article
from tests.data_shards.test_fuzz import mutated

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
FILES = 25
"""Damaged files of a build, beside a good one."""


def table() -> bytes:
    buffer = io.BytesIO()
    rows = {"text": [article(i) for i in range(50)], "topic": [i % 3 for i in range(50)]}
    parquet.write_table(pyarrow.table(rows), buffer, row_group_size=20)
    return buffer.getvalue()


def sound(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(-900, 900, 4000).astype(np.int16)
    soundfile.write(buffer, noise, 16000, format=kind)
    return buffer.getvalue()


def pictures() -> bytes:
    """A table of images as Hugging Face writes it."""
    buffer = io.BytesIO()
    parquet.write_table(pictures_table([(image(i), i % 3) for i in range(24)]), buffer, row_group_size=10)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(20):
            archive.writestr(f"{'ab'[i % 2]}/{i:03d}.png", encoded(i, "png"))
    return buffer.getvalue()


TAR = tar([(f"{i:03d}.{name}", data) for i in range(20) for name, data in (("jpg", encoded(i)), ("cls", b"1"))])
INLINE = "".join(
    json.dumps({"image": {"bytes": base64.b64encode(encoded(i)).decode()}, "c": i}) + "\n" for i in range(9)
).encode()
LINES = "".join(json.dumps({"text": article(i), "topic": i % 3}) + "\n" for i in range(20)).encode()
PROSE = "\n\n".join(article(i) + " 漢字" for i in range(20)).encode()
MANIFEST = "path\ttext\tlabel\n" + "".join(f"{i}.flac\tsaid {i}\t{i % 2}\n" for i in range(20))
SOURCES = {
    "jsonl": ("jsonl", {"label_field": "topic"}, {"jsonl": LINES, "jsonl.gz": gzip.compress(LINES),
              "jsonl.bz2": bz2.compress(LINES), "jsonl.xz": lzma.compress(LINES), "jsonl.zst": zstd.compress(LINES)}),
    "parquet images": ("parquet", {}, {"parquet": pictures()}),
    "jsonl images": ("jsonl", {"modality": "vision", "data_field": "image"}, {"jsonl": INLINE}),
    "tars": ("webdataset", {}, {"tar": TAR, "tar.gz": gzip.compress(TAR)}),
    "parquet": ("parquet", {"label_field": "topic"}, {"parquet": table()}),
    "text": ("textfiles", {"documents": "paragraphs"}, {"txt": PROSE, "txt.gz": gzip.compress(PROSE)}),
    "images": ("imagefolder", {}, {kind: encoded(0, kind) for kind in ("png", "webp", "bmp")} | {"jpg": encoded(0)}),
    "audio": ("audiofolder", {}, {kind: sound(kind) for kind in ("wav", "ogg", "mp3")} | {"flac": clip(0, 4000)}),
    "manifest": ("audiofolder", {}, {"tsv": MANIFEST.encode()}),
    "zip": ("imagefolder", {}, {"zip": zipped()}),
    "tar": ("imagefolder", {}, {"tar": TAR}),
}  # fmt: skip


def fuzz(folder, name: str, seconds: float, seed: int) -> None:
    """Build damaged files beside a good one, for so long. Every build has the good one."""
    source, keys, kinds = SOURCES[name]
    rng, deadline, builds = np.random.default_rng(seed), time.monotonic() + seconds, 0
    train_tokenizer([article(i) for i in range(20)], 300).save(folder / "tokenizer")
    alone = name in ("manifest", "zip", "tar")  # one file is all of the input
    if name not in ("images", "audio") and not alone:
        keys = {**keys, "tokenizer": str(folder / "tokenizer")}
    while time.monotonic() < deadline:
        inputs = folder / f"in{builds}"
        inputs.mkdir()
        for number in range(1 if alone else FILES):
            kind = str(rng.choice(list(kinds)))
            (inputs / f"{number}.{kind}").write_bytes(mutated(kinds[kind], rng))
        good, data = next(iter(kinds.items()))
        (inputs / f"good.{good}").write_bytes(data)
        if name == "manifest":
            for number in range(20):
                (inputs / f"{number}.flac").write_bytes(clip(number, 800))
        path = inputs / f"0.{good}" if alone else inputs
        output = folder / f"out{builds}"
        try:
            lines = build(BuildConfig(source=source, input=str(path), output=str(output), workers=1, **keys))
        except ValueError as error:
            # Of one file all may be lost. A changed name of a class changes all labels.
            assert "\n" not in str(error) and str(path) in str(error), error
            assert alone or "has other names for the classes" in str(error), error
        else:
            assert all("\n" not in line and "\0" not in line for line in lines)
            assert load_index(str(output)).samples >= (1 if alone or name in ("images", "audio") else 20)
        builds += 1
    assert builds


@pytest.mark.parametrize("name", SOURCES)
def test_damaged_sources_for_a_moment(tmp_path, name):
    fuzz(tmp_path, name, 0.4, seed=0)


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_damaged_sources_for_a_minute(tmp_path, name):
    fuzz(tmp_path, name, SECONDS, seed=int(time.time()))
