"""The keys of every command but `pretrain`; those of `config` are pretrain's.

A class's docstring is `./run.sh COMMAND`: and what the command does, in one line; `--help` prints it.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from configs.published import Objective
from configs.schema import PretrainConfig
from configs.schema_modalities import (
    STRICT,
    AnyPath,
    LocalOrUrl,
    LocalPath,
    Modality,
    SpeechConfig,
    TextConfig,
    VisionConfig,
)
from configs.schema_objective import MasksConfig
from configs.schema_training import Shards


class ConfigCommandConfig(PretrainConfig):
    """`./run.sh config`: Print the configuration of `pretrain`, and mark what differs from recipe and publication."""


@dataclass(config=STRICT)
class BuildConfig:
    """`./run.sh shards build`: Turn files into tar shards and their index, or continue a build that was stopped."""

    source: Literal[
        "imagefolder", "audiofolder", "textfiles", "jsonl", "parquet", "webdataset", "demo", "demo_speech", "demo_text"
    ]
    """Kind of source. imagefolder: images in class folders or in one flat folder. audiofolder: a folder of recordings
    (LibriSpeech's and Libri-light's layouts included). Both: or a TSV or CSV manifest. textfiles: documents. jsonl,
    parquet: tables of images, recordings or documents. webdataset: tars of samples. demo, demo_speech, demo_text:
    packaged images, recordings, texts."""
    output: LocalOrUrl
    """Folder for the shards, their index and, for text, the tokenizer. Or the URL of one in a store (s3://, gs://): the
    shards are then built in `staging` and sent from there, index.json last."""
    input: AnyPath = ""
    """Folder of source files, or one file: a manifest (imagefolder, audiofolder), documents (textfiles), a table
    (jsonl, parquet). imagefolder, audiofolder: also a .zip or .tar archive, or the URL of a folder (s3://, gs://),
    which are read in place. webdataset: all that its library opens too, URLs and `pipe:COMMAND`, with braces; several
    with `::` between them. Packaged data: a folder that holds it already. "": none; only packaged data needs no
    input."""
    name: str = "train"
    """Name of the split, of letters, digits, - and _. Shards are called NAME-000000.tar, NAME-000001.tar, and so on."""
    shard_mb: Annotated[int, Field(ge=1)] = 256
    """Target shard size in MiB. For text: size of the uncompressed source, approximately."""
    staging: LocalPath = ""
    """Folder of this machine in which the shards for a remote `output` are built, with room for all of them. It stays:
    the same command goes on from it. "": none; a remote output needs one."""
    overwrite: bool = False
    """Replace the shards of this name that a build with other keys, e.g. another input, made in `output`."""
    workers: Annotated[int | None, Field(ge=1, le=1024)] = None
    """Number of processes, at most 1024. Null: the number of cores."""
    executor: Literal["local", "dask"] = "local"
    """Builders of the shards. local: processes of this machine (`workers`). dask: the workers of a cluster, which see
    input and output under the same paths and run this tree's `.venv`."""
    address: str = ""
    """Address of dask's scheduler for executor=dask, e.g. tcp://node0:8786."""
    decode: bool = True
    """Decode every image, and leave out those that cannot be decoded or have more pixels than `vision.max_pixels` by
    default. False: look at headers only. Recordings are always decoded."""
    min_seconds: Annotated[float, Field(ge=0.045)] = 0.045
    """Shortest recording in seconds; shorter ones are left out. The smallest legal value is two frames: one to mask,
    one to see. Published: 2."""
    segment_seconds: Annotated[float | None, Field(gt=0)] = None
    """Longest piece in seconds: longer recordings without a transcript are cut into equal pieces. Null: nothing is cut.
    """
    tokenizer: LocalPath = ""
    """Byte-level BPE tokenizer of text: a folder or a pair of files (vocab.json and merges.txt, or GPT-2's encoder.json
    and vocab.bpe). "": the tokenizer in `output`, or else one trained on the input. A held-out split, and an output
    beside shards with a tokenizer, ask for one of these. new: one trained on the input even so."""
    vocab_size: Annotated[int, Field(ge=300)] = 50265
    """Number of types of a tokenizer that is trained here, special ones included. Published: 50265."""
    max_tokens: Annotated[int, Field(ge=8)] = 512
    """Longest text sequence in tokens, <s> and </s> included. Published: 512."""
    pack: Literal["documents", "full"] = "documents"
    """Packing of documents into text sequences. documents: no sequence holds parts of two documents (published). full:
    documents are joined by </s>, and sequences are full."""
    documents: Literal["files", "paragraphs", "lines"] = "files"
    """Unit that is a document of source=textfiles: files (a whole file), paragraphs (a block between blank lines) or
    lines."""
    modality: Modality | None = None
    """Content of a table (jsonl, parquet) or of tars (webdataset): vision, speech or text. Null: images or recordings
    if there is a column of {bytes, path}, for jsonl no text but the names of files, in tars such a member; else texts.
    """
    data_field: str = ""
    """Name of the field (jsonl) or column (parquet, manifest) that holds images or recordings: {bytes, path}, bytes
    (base64 in jsonl), or a path relative to the table. webdataset: extensions of members, as `jpg;png`, the first that
    is there. "": the only one that holds any."""
    text_field: str = "text"
    """Name of the field (jsonl), column (parquet, manifest) or member (webdataset: txt or text by default, or as
    `json.caption`) that holds the text: the document, or the caption or transcript of an image or a recording, which
    need none."""
    label_field: str = ""
    """Name of the field (jsonl), column (parquet, manifest) or member (webdataset) that holds a class, for probes. "":
    no labels, but for images and recordings the only column that Hugging Face's metadata call ClassLabel, or the member
    cls."""


@dataclass(config=STRICT)
class IndexConfig:
    """`./run.sh shards index`: Write the index of tar shards that others built, and name those that cannot be used."""

    shards: Shards
    """Local tar shards: a folder, a glob or braces, or a list of them, e.g. [/data/a,/data/b]."""


@dataclass(config=STRICT)
class InfoConfig:
    """`./run.sh shards info`: Print counts, sizes, lengths, classes and what should not be among the samples."""

    shards: Shards
    """Local or remote tar shards: a folder, a glob or braces, or a list of them, e.g. [/data/a,/data/b]."""
    deep: bool = False
    """Decode the samples: find damaged ones, silence, images of one colour, and content that is there twice."""
    n: Annotated[int | None, Field(ge=1)] = None
    """Number of samples to look into, evenly spread over the shards. Null: all; of remote shards all if `deep=true`,
    else none."""
    workers: Annotated[int | None, Field(ge=1, le=1024)] = None
    """Number of processes that decode, at most 1024. Null: the number of cores."""


@dataclass(config=STRICT)
class ValidateConfig:
    """`./run.sh shards validate`: Compare tar shards with their index, and list every difference."""

    shards: Shards
    """Local tar shards: a folder, a glob or braces, or a list of them, e.g. [/data/a,/data/b]."""
    deep: bool = False
    """Decode every image and recording, and check the token ids of every text."""
    workers: Annotated[int | None, Field(ge=1, le=1024)] = None
    """Number of processes, at most 1024. Null: the number of cores."""


@dataclass(config=STRICT)
class BenchConfig:
    """`./run.sh shards bench`: Measure how fast shards are read, decoded, augmented and made into batches."""

    shards: Shards
    """Local or remote tar shards: a folder, a glob or braces, or a list of them, e.g. [/data/a,/data/b]."""
    modality: Modality | None = None
    """Kind of samples: vision, speech or text. Null: that of the first sample."""
    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    """Number of loader processes in the last stage, which measures the loader."""
    batch: Annotated[int, Field(ge=1)] = 64
    """Samples per batch."""
    seconds: Annotated[float, Field(gt=0)] = 3.0
    """Duration of each stage's measurement in seconds, above 0."""


@dataclass(config=STRICT)
class ShowConfig:
    """`./run.sh shards show`: Draw samples as a run decodes, augments and masks them, with their keys and labels."""

    shards: Shards
    """Local or remote tar shards: a folder, a glob or braces, or a list of them, e.g. [/data/a,/data/b]."""
    out: LocalPath
    """File to write. NAME.html: a page that needs no other file, with recordings to play. NAME.png: one picture."""
    n: Annotated[int, Field(ge=1, le=200)] = 12
    """Number of samples, evenly spread over the shards, at most 200."""
    modality: Modality | tuple[Modality, ...] | None = None
    """Kind of samples: vision, speech or text. Null: that of the first sample."""
    recipe: str = ""
    """Recipe whose keys of samples and masks replace the defaults, which are the published ones. "": none."""
    vision: VisionConfig = field(default_factory=VisionConfig)
    """Keys of images."""
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    """Keys of recordings."""
    text: TextConfig = field(default_factory=TextConfig)
    """Keys of texts."""
    objective: Objective = "v1"
    """Objective whose masks are shown. v1: data2vec. v2: data2vec 2.0."""
    masks: MasksConfig = field(default_factory=MasksConfig)
    """Keys of the masks of `objective=v2`."""


@dataclass(config=STRICT)
class ExportConfig:
    """`./run.sh export`: Write a run's weights as a folder that Hugging Face Transformers loads."""

    run: LocalPath
    """Run directory; its newest good checkpoint is exported."""
    out: LocalPath
    """Folder to write. It must be empty or absent."""
    weights: Literal["teacher", "student"] = "teacher"
    """Network to export: teacher (the moving average) or student."""
    modality: Modality | None = None
    """Modality of a mixture to export: vision, speech or text. Null: the run's only one."""


@dataclass(config=STRICT)
class ReshardConfig:
    """`./run.sh reshard`: Rewrite a run's newest checkpoint as whole parameters; a resume does not need this."""

    run: LocalPath
    """Run directory."""
    files: Annotated[int, Field(ge=1)] = 1
    """Number of files to write. Several let many ranks read at a time."""


@dataclass(config=STRICT)
class ProbeCommandConfig:
    """`./run.sh probe`: Measure k-NN and linear-probe accuracy of a run's features on labelled samples."""

    run: LocalPath
    """Run directory; its newest good checkpoint is probed."""
    weights: Literal["teacher", "student"] = "teacher"
    """Network to probe: teacher (the moving average) or student."""
    modality: Modality | None = None
    """Modality of a mixture to probe: vision, speech or text. Null: every one that has labelled shards."""
    train_shards: str = ""
    """Labelled reference shards: a folder, a glob or braces. "": the run's `probe.train_shards`."""
    test_shards: str = ""
    """Labelled held-out shards that accuracy is measured on: a folder, a glob or braces. "": the run's
    `probe.test_shards`."""
    k: Annotated[int, Field(ge=1)] = 20
    """Number of nearest neighbours that vote in the k-NN probe."""


@dataclass(config=STRICT)
class BoardConfig:
    """`./run.sh board`: Show a run's curves and pictures with TensorBoard."""

    run: LocalPath
    """Run directory, or a folder of several."""
    port: Annotated[int, Field(ge=1, le=65535)] = 6006
    """Port of TensorBoard's page, from 1 to 65535."""
    host: str = "localhost"
    """Address that TensorBoard listens on. 0.0.0.0: all addresses of this machine."""
