"""The keys of training: model, optimizer, schedule, batch, data, mixture.

A percentage (`schedule.warmup=5%`) and a null that stands for a rule are numbers once `configs.resolve` has seen them.

"Published" values are those of arXiv 2202.03555 and the authors' code; configs/recipe/*.yaml give the source of each.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from configs.schema_modalities import STRICT, LocalPath


def _listed(value: object) -> object:
    """Split `[/a/*.tar,/b/{0..3}.tar]`, as a command line gives it, into patterns; return anything else as it is."""
    if not (isinstance(value, str) and value.startswith("[") and value.endswith("]")):
        return value
    parts, depth = [""], 0
    for sign in value[1:-1]:
        depth += (sign == "{") - (sign == "}")
        if sign == "," and depth == 0:  # not within braces
            parts.append("")
        else:
            parts[-1] += sign
    return tuple(part.strip().strip("'\"") for part in parts)


Patterns = str | tuple[str, ...]
"""A folder, a glob or braces, local or remote (`s3://`, `gs://`, `http(s)://`); or several of them."""


Shards = Annotated[Patterns, BeforeValidator(_listed)]
"""Tar shards, as `Patterns`. Text that is a bracketed list becomes a tuple."""


@dataclass(config=STRICT)
class ModelConfig:
    """The Transformer's size and its regularisation (group `model`: tiny, small, medium, base, large, huge)."""

    size: str = "tiny"
    """Name of the model's size, for logs. It changes nothing."""
    layers: Annotated[int, Field(ge=1, le=1000)] = 4
    """Number of Transformer blocks, at most 1000. Published: 12 (Base), 24 (Large)."""
    width: Annotated[int, Field(ge=8)] = 128
    """Channels of the residual stream, H. Published: 768 (Base), 1024 (Large)."""
    heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads of a block. Must divide `model.width`. Published: 12 (Base), 16 (Large)."""
    ffn: Annotated[int, Field(ge=8)] = 512
    """Channels of a block's feed-forward layer. Published: 3072 (Base), 4096 (Large)."""
    norm: Literal["pre", "post", "deep"] | None = None
    """Place of LayerNorm in a block. pre: before attention and before the feed-forward layer. post: after each residual
    sum. deep: as post, with DeepNorm's scaled residuals (Wang et al. 2022, arXiv 2203.00555). Null: pre for vision and
    for blocks that modalities share, post for speech and text. Published: the same, and deep for speech on AudioSet.
    With pre, speech is still normalised in front of the first block, as with post; fairseq's pre-norm encoder only
    normalises behind the last block."""
    layer_scale: Annotated[float | None, Field(ge=0)] = None
    """Initial value of LayerScale's gamma in pre-norm blocks. 0: no LayerScale. Blocks with `model.norm` post or deep
    have none. Null: as published for vision, 1e-4 up to 768 channels (Base) and 1e-5 above (Large); none for
    `objective=v2`."""
    dropout: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Dropout rate of the blocks' input and of the outputs of attention and feed-forward layer, in [0, 1). Null: the
    published rate (vision 0, speech and text 0.1)."""
    attention_dropout: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Dropout rate of attention probabilities, in [0, 1). Null: vision 0, speech and text 0.1. Published: vision 0.05
    (Base) and 0.15 (Large), speech and text 0.1."""
    layer_drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a forward pass of the student leaves out a block (LayerDrop), in [0, 1). All ranks leave out the
    same blocks. 0: none. Published: 0.05 for speech on LibriSpeech."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a sample skips a residual branch of the last block (stochastic depth), in [0, 1). It grows
    linearly from 0 at the first block. Above 0 needs pre-norm blocks. 0: off. Published for vision: 0.25 (Base), 0.2
    (Large)."""
    activation_checkpointing: bool = False
    """Recompute the student's blocks in the backward pass. This takes less memory and about a third more compute."""
    compile: bool = False
    """Compile the blocks with torch.compile."""


@dataclass(config=STRICT)
class MixturePart:
    """One modality of a mixture. Keys left null are the run's own."""

    weight: Annotated[int, Field(ge=1)] = 1
    """Steps of this modality in each cycle of a mixture. A cycle has as many steps as the weights of all its modalities
    add up to."""
    shards: Shards = ""
    """Tar shards of this modality in a mixture, instead of `data.shards`: a folder, a glob or braces, or a list. "":
    none; only the demo runs without."""
    weights: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Weights of the items in this modality's list of shards in a mixture, instead of `data.weights`. Null: all items
    form one data set."""
    global_: Annotated[int | None, Field(alias="global", ge=1)] = None
    """Samples per optimizer step of this modality in a mixture, over all ranks. Null: `batch.global`."""
    micro: Annotated[int | None, Field(ge=1)] = None
    """Samples per forward pass of this modality on one rank in a mixture (speech and text: at most). Null:
    `batch.micro`."""
    micro_tokens: Annotated[int | None, Field(ge=1)] = None
    """Most frames or subwords per forward pass of this modality on one rank in a mixture, padding included. Null:
    `batch.micro_tokens`."""
    probe_train_shards: Shards = ""
    """Labelled reference shards of this modality's probe in a mixture, instead of `probe.train_shards`. "": no probe.
    """
    probe_test_shards: Shards = ""
    """Labelled held-out shards of this modality's probe in a mixture, instead of `probe.test_shards`. "": no probe."""


@dataclass(config=STRICT)
class MixtureConfig:
    """A run of several modalities, e.g. `modality=[vision,speech,text]`. Every step is of one modality."""

    blocks: Literal["shared", "separate"] = "shared"
    """Sharing of Transformer blocks in a mixture. shared: one stack for all modalities; each has its own feature
    encoder, positions, mask vector and head. separate: a whole model for each modality."""
    vision: MixturePart = field(default_factory=MixturePart)
    """The share of images."""
    speech: MixturePart = field(default_factory=MixturePart)
    """The share of speech."""
    text: MixturePart = field(default_factory=MixturePart)
    """The share of text."""


@dataclass(config=STRICT)
class OptimizerConfig:
    """AdamW: its constants, weight decay and gradient clipping."""

    lr: Annotated[float, Field(gt=0)] = 5e-4
    """Peak learning rate, above 0. Published: vision 2e-3 (Base) and 1e-3 (Large), speech 5e-4, text 2e-4. Null:
    Base's, times sqrt(`batch.global` / its batch of 2048, 320 or 256), times 768 / `model.width`. `objective=v2`: Base
    with vision 1e-3, speech 7.5e-4, text 2e-4 and a batch of 256, 32 or 64."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates of the first and the second moment, each in [0, 1). Published: vision [0.9,0.999], speech and
    text [0.9,0.98]."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Adam's epsilon, above 0. Published: vision 1e-8, speech and text 1e-6."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Decoupled weight decay: each update also subtracts learning rate * decay * parameter. 0: none. Published: vision
    0.05, speech and text 0.01."""
    decay_rule: Literal["matrices", "all"] = "matrices"
    """Parameters with weight decay. matrices: all but 1-D tensors, biases and the CLS token (published for vision).
    all: every parameter (published for speech and text)."""
    clip: Annotated[float, Field(ge=0)] = 3.0
    """Largest global gradient norm; larger gradients are scaled down to it. 0: no clipping. Published: vision 3, speech
    0, text 5."""


@dataclass(config=STRICT)
class ScheduleConfig:
    """The learning rate as a function of the applied steps."""

    kind: Literal["cosine", "linear", "exponential", "constant"] = "cosine"
    """Shape of the learning rate after `schedule.warmup` and `schedule.hold`. cosine, linear and exponential fall to
    `schedule.lr_end`; constant stays at `optimizer.lr`. Published: vision cosine; speech with a hold, then exponential
    (code) or linear (paper); text cosine (code), or a hold and then linear (paper)."""
    steps: Annotated[int | None, Field(ge=1)] = None
    """Length of the learning-rate schedule in applied steps, warm-up and hold included. Null: `train.steps`."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Length of the linear warm-up from `schedule.lr_start` to `optimizer.lr`, in applied steps or as a percentage of
    the schedule, e.g. 5%. 0: none. Published: vision 10 epochs (Base) and 80 (Large), speech 3 % of the schedule, text
    10,000 steps."""
    hold: Annotated[int, Field(ge=0)] = 0
    """Applied steps at `optimizer.lr` between warm-up and decay, or a percentage of the schedule. 0: none. Published
    for speech: 90 % of the schedule."""
    lr_start: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate of the first warm-up step. At most `optimizer.lr`. Published: 0; for speech 1 % of the peak."""
    lr_end: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate at the end of the schedule and after it. At most `optimizer.lr`; above 0 for
    `schedule.kind=exponential`. Published: vision 1e-5, speech 1 % of the peak, text 0."""


@dataclass(config=STRICT)
class BatchConfig:
    """The batch: samples per step, and per forward pass."""

    global_: Annotated[int, Field(alias="global", ge=1)] = 64
    """Samples per optimizer step over all ranks; with `batch.equal=tokens` their mean. A multiple of the number of
    ranks. Published: vision 2048 (Base) and 4096 (Large, code), text 256; speech 63 minutes of audio."""
    micro: Annotated[int, Field(ge=1)] = 32
    """Samples per forward pass on one rank. Lower it when memory runs out. Images: must divide `batch.global` / ranks.
    Speech and text: an upper limit, as is `batch.micro_tokens`."""
    micro_tokens: Annotated[int | None, Field(ge=1)] = None
    """Most frames or subwords per forward pass on one rank, padding included, for speech and text. Must hold the
    longest sample. Null: no limit but `batch.micro`. Published: speech 11,875 frames, text 8192 subwords."""
    equal: Literal["samples", "tokens"] = "samples"
    """Unit in which steps of speech and text are equal. samples: each step has `batch.global` samples. tokens: steps
    have about equal numbers of frames or subwords, so their cost is about equal (published)."""


@dataclass(config=STRICT)
class DataConfig:
    """Shards, their order, and how they are read."""

    shards: Shards = ""
    """Tar shards: a folder, a glob or braces, e.g. /data/train-{000000..000146}.tar. Local, or remote: s3://, gs://,
    http://, https://. A list names several, e.g. [/data/a,/data/b]. The shards of a folder must have one name, as
    NAME-000000.tar. "": none; only the demo runs without. A mixture uses `mixture.MODALITY.shards`."""
    weights: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Samples from each item of the list `data.shards` among every sum(weights) samples. Null: all items form one data
    set. A mixture uses `mixture.MODALITY.weights`."""
    epoch: Literal["mixture", "source"] = "mixture"
    """End of an epoch when `data.weights` is given. mixture: the first item has no samples left; no sample comes twice
    in an epoch. source: each item begins its own next epoch when it has no samples left."""
    lanes: Annotated[int | None, Field(ge=1)] = None
    """Number of lanes: parallel streams of samples that every epoch is divided into and ranks share out. Must divide
    `batch.global` and be a multiple of every number of ranks the run will have. Fixed by the first checkpoint. Null:
    the largest divisor of `batch.global` up to 768; with `batch.equal=tokens` also up to `batch.global` / 8."""
    window: Annotated[int, Field(ge=1)] = 1024
    """Number of samples in a window of a lane; the samples of a window are shuffled together. Speech and text of one
    window, from all lanes, are batched by length."""
    chunk_bytes: Annotated[int, Field(ge=1)] = 8 * 2**20
    """Size of a chunk in bytes, approximately. A chunk is a run of neighbouring samples of a shard; chunks are shuffled
    whole, then the samples of each window. Remote shards are read in chunks."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 1
    """Loader processes per rank, at most 1024; in a mixture per rank and modality. 0: the training process loads the
    data."""
    prefetch: Annotated[int, Field(ge=1, le=1024)] = 2
    """Number of micro-batches that each loader process prepares ahead, at most 1024."""
    read_ahead_mb: Annotated[int, Field(ge=0)] = 1024
    """Read-ahead of a rank in MiB: a process of its own fetches coming chunks of remote shards into the cache, and of
    local files into the page cache. Remote shards: at most half of `data.cache_gb`, divided by the node's ranks. 0, or
    `data.workers=0`: nothing is read ahead."""
    cache_dir: LocalPath = ""
    """Folder on each node in which the cache of remote shards makes a folder of its own, `data2vec-cache-UID`. All
    ranks and jobs of a user that name it share it; other files in it are left alone. "": the system's temporary
    folder."""
    cache_gb: Annotated[float, Field(gt=0)] = 32.0
    """Largest size of the cache in GiB, above 0. Older chunks make room for new ones."""
    retries: Annotated[int, Field(ge=0)] = 6
    """Number of times that a failed request to a remote store is repeated, after growing waits. 0: never."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest duration of a request to a remote store in seconds, above 0. A longer one has failed."""
    max_sample_mb: Annotated[int, Field(ge=1)] = 256
    """Largest size of a sample in MiB. A larger one is a bad sample: another replaces it."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Largest fraction of bad samples among those read, in [0, 1]. Bad samples cannot be used, and others replace them.
    A larger fraction stops the run once more than `data.max_bad_samples` were bad."""
    max_bad_samples: Annotated[int, Field(ge=0)] = 100
    """Number of bad samples that a run may always have, over all ranks and resumes. More of them stop it once they
    exceed `data.max_bad_fraction` of the samples read."""
    max_bad_streak: Annotated[int, Field(ge=1)] = 100
    """Number of bad samples in a row that stops the run. Samples follow each other step by step, and within a step lane
    by lane."""
