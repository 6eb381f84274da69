"""The keys of every command but `pretrain`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from configs.schema_modalities import (
    STRICT,
    Modality,
)
from configs.schema_training import Shards


@dataclass(config=STRICT)
class BuildConfig:
    """`./run.sh shards build`."""

    source: Literal["imagefolder", "audiofolder", "textfiles", "jsonl", "parquet", "demo", "demo_speech", "demo_text"]
    """`imagefolder`: class folders or one flat folder of images; `audiofolder`: a folder of recordings (LibriSpeech and
    Libri-light among them) or a TSV manifest; `textfiles`, `jsonl`, `parquet`: documents; `demo*`: packaged data."""
    output: str
    """Folder of the shards."""
    input: str = ""
    """Folder of the source files, or one file of documents or a manifest (for `demo*`: optional, a folder that already
    holds them)."""
    name: str = "train"
    """Shards are called NAME-000000.tar."""
    shard_mb: Annotated[int, Field(ge=1)] = 256
    """Size at which a shard is closed, in MiB; text: of the source, before compression about."""
    workers: Annotated[int | None, Field(ge=1)] = None
    """Processes; null is the number of cores."""
    min_seconds: Annotated[float, Field(ge=0.045)] = 0.045
    """Audio: shorter recordings are left out (published: 2). The least is two frames: one to mask, one to see."""
    segment_seconds: Annotated[float | None, Field(gt=0)] = None
    """Audio: longer recordings without transcript are cut into equal pieces of at most this; null cuts nothing."""
    tokenizer: str = ""
    """Text: a folder or a file pair with a byte-level BPE vocabulary (vocab.json and merges.txt, or GPT-2's
    encoder.json and vocab.bpe); "" takes the one in `output`, or trains one from the input."""
    vocab_size: Annotated[int, Field(ge=300)] = 50265
    """Text: types of a tokenizer that is trained here, special ones included."""
    max_tokens: Annotated[int, Field(ge=8)] = 512
    """Text: longest sequence, <s> and </s> included."""
    pack: Literal["documents", "full"] = "documents"
    """Text: `documents`: no sequence holds parts of two documents; `full`: documents are joined by </s>."""
    documents: Literal["files", "paragraphs", "lines"] = "files"
    """Text: what a document is for `textfiles`: a file, a block between blank lines, or a line."""
    text_field: str = "text"
    """Text: name of the field (jsonl) or column (parquet) that holds the text."""
    label_field: str = ""
    """Text: name of the field or column that holds a class, for probes; "" is none."""


@dataclass(config=STRICT)
class IndexConfig:
    """`./run.sh shards index`."""

    shards: Shards
    """Tar shards: a folder, a glob or braces, or a list of such; local."""


@dataclass(config=STRICT)
class InfoConfig:
    """`./run.sh shards info`."""

    shards: Shards
    """Tar shards, local or remote."""


@dataclass(config=STRICT)
class ValidateConfig:
    """`./run.sh shards validate`."""

    shards: Shards
    """Tar shards: a folder, a glob or braces, or a list of such; local."""
    deep: bool = False
    """Decode every image and recording, and look into every text."""
    workers: Annotated[int | None, Field(ge=1)] = None
    """Processes; null is the number of cores."""


@dataclass(config=STRICT)
class BenchConfig:
    """`./run.sh shards bench`."""

    shards: Shards
    """Tar shards, local or remote."""
    modality: Modality | None = None
    """What the samples are; null: as the first one tells."""
    workers: Annotated[int, Field(ge=1)] = 2
    """Loader processes of the last stage."""
    batch: Annotated[int, Field(ge=1)] = 64
    """Samples of a batch."""
    seconds: Annotated[float, Field(gt=0)] = 3.0
    """How long each stage is measured."""


@dataclass(config=STRICT)
class ExportConfig:
    """`./run.sh export`."""

    run: str
    """Run directory."""
    out: str
    """Folder to write."""
    weights: Literal["teacher", "student"] = "teacher"
    """Which weights."""
    modality: Modality | None = None
    """Which of a mixture's modalities; null is the run's only one."""


@dataclass(config=STRICT)
class ReshardConfig:
    """`./run.sh reshard`."""

    run: str
    """Run directory."""
    files: Annotated[int, Field(ge=1)] = 1
    """Files to write; for many ranks to come, some."""


@dataclass(config=STRICT)
class ProbeCommandConfig:
    """`./run.sh probe`: keys left empty are those of the run."""

    run: str
    """Run directory."""
    weights: Literal["teacher", "student"] = "teacher"
    """Which weights."""
    modality: Modality | None = None
    """Of a mixture, which of its modalities; null is every one that has labelled shards."""
    train_shards: str = ""
    """Labelled reference shards."""
    test_shards: str = ""
    """Labelled held-out shards."""
    k: Annotated[int, Field(ge=1)] = 20
    """Neighbours."""


@dataclass(config=STRICT)
class BoardConfig:
    """`./run.sh board`."""

    run: str
    """Run directory, or a folder of several."""
    port: Annotated[int, Field(ge=1, le=65535)] = 6006
    """Port of TensorBoard's page."""
    host: str = "localhost"
    """Address it listens on; 0.0.0.0 for any."""
