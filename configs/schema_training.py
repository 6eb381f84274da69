"""The keys of training: model, teacher, loss, optimizer, schedule, batch, data, mixture."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from configs.published import Normalisation
from configs.schema_modalities import STRICT


def _listed(value: object) -> object:
    """`[/a/*.tar,/b/{0..3}.tar]`, as a command line gives it -> its patterns; anything else as it is."""
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


Shards = Annotated[Patterns, BeforeValidator(_listed)]
"""Tar shards: a folder, a glob or braces, local or remote (`s3://`, `gs://`, `http(s)://`); or a list of such."""


@dataclass(config=STRICT)
class ModelConfig:
    """The Transformer's size and its regularisation (group `model`: tiny, base, large, huge)."""

    size: str = "tiny"
    """Name of the size, for logs."""
    layers: Annotated[int, Field(ge=1)] = 4
    """Number of blocks."""
    width: Annotated[int, Field(ge=8)] = 128
    """Width of the residual stream, H."""
    heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads; must divide `width`."""
    ffn: Annotated[int, Field(ge=8)] = 512
    """Width of the feed-forward layer."""
    norm: Literal["pre", "post", "deep"] | None = None
    """Where a block normalises: before its branches, after its sums, or after its sums as DeepNorm (Wang et al. 2022).
    Null is the modality's own: vision pre, speech and text post; blocks shared by several modalities pre."""
    layer_scale: Annotated[float, Field(ge=0)] = 1e-4
    """Initial value of LayerScale's gamma in pre-norm blocks; 0 leaves LayerScale out. Other blocks have none."""
    dropout: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Dropout of the blocks' input and after the attention and feed-forward projections; null is the modality's own:
    vision 0, speech and text 0.1."""
    attention_dropout: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Dropout of attention probabilities; null as for `dropout`."""
    layer_drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a block of the student is left out of a forward pass, the same one on every rank."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth of the last block; linear from 0 at the first. For pre-norm blocks."""
    activation_checkpointing: bool = False
    """Recompute each student block in the backward pass: less memory, about a third more compute."""
    compile: bool = False
    """Compile the blocks with torch.compile."""


@dataclass(config=STRICT)
class MixturePart:
    """One modality of a mixture. Keys left null are the run's own."""

    weight: Annotated[int, Field(ge=1)] = 1
    """Steps of this modality in every `sum of weights` steps."""
    shards: Shards = ""
    """Its tar shards, as `data.shards`."""
    weights: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Its `data.weights`."""
    global_: Annotated[int | None, Field(alias="global", ge=1)] = None
    """Its `batch.global`."""
    micro: Annotated[int | None, Field(ge=1)] = None
    """Its `batch.micro`."""
    micro_tokens: Annotated[int | None, Field(ge=1)] = None
    """Its `batch.micro_tokens`."""
    probe_train_shards: Shards = ""
    """Its `probe.train_shards`."""
    probe_test_shards: Shards = ""
    """Its `probe.test_shards`."""


@dataclass(config=STRICT)
class MixtureConfig:
    """A run of several modalities: `modality=[vision,speech,text]`. Every step is of one modality."""

    blocks: Literal["shared", "separate"] = "shared"
    """`shared`: one stack of Transformer blocks for all modalities, each with its own feature encoder, positions, mask
    vector and head; `separate`: a model for each modality."""
    vision: MixturePart = field(default_factory=MixturePart)
    speech: MixturePart = field(default_factory=MixturePart)
    text: MixturePart = field(default_factory=MixturePart)


@dataclass(config=STRICT)
class TeacherConfig:
    """The exponential moving average and the targets made from it."""

    decay: Annotated[float, Field(ge=0, le=1)] = 0.9998
    """Decay tau at the first step."""
    decay_end: Annotated[float | None, Field(ge=0, le=1)] = None
    """Decay after `decay_steps`; null keeps `decay` throughout."""
    decay_steps: Annotated[int, Field(ge=0)] = 0
    """Applied steps of the linear ramp from `decay` to `decay_end`."""
    average: Literal["all", "transformer", "blocks"] | None = None
    """What the teacher averages; the rest is the student's own. `all`; `transformer`: positions and blocks;
    `blocks`: the blocks. Null is the modality's own: vision all, speech transformer, text blocks."""
    layers: Annotated[int | None, Field(ge=1)] = None
    """K: the targets average the top K blocks; null is the modality's own: vision 6, speech 8, text 10."""
    target: Literal["block", "ffn"] | None = None
    """What is taken of a block: its output, or its feed-forward layer's before dropout and residual. Null is the
    modality's own: vision block, speech and text ffn."""
    block_norm: Normalisation | None = None
    """Normalisation of each block before averaging, without affine; null: vision layer, speech instance, text layer."""
    mean_norm: Normalisation | None = None
    """Normalisation of the average, without affine; null: vision layer, speech and text none."""


@dataclass(config=STRICT)
class LossConfig:
    """The regression loss at masked positions."""

    beta: Annotated[float | None, Field(ge=0)] = None
    """Smooth-L1 beta; 0 is the squared error without the factor 1/2. Null is the modality's own: vision 2, speech 0,
    text 4."""
    reduction: Literal["mean", "sqrt", "sum"] | None = None
    """Over the H dimensions: their mean, their sum over sqrt(H), or their sum. Null is the modality's own: vision mean,
    speech sqrt, text sum."""


@dataclass(config=STRICT)
class OptimizerConfig:
    """AdamW and what is clipped and decayed."""

    lr: Annotated[float, Field(gt=0)] = 5e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates of the first and second moment."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Adam's epsilon."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Decoupled weight decay."""
    decay_rule: Literal["matrices", "all"] = "matrices"
    """`matrices`: no decay for 1-D tensors, biases and the CLS token; `all`: decay everything."""
    clip: Annotated[float, Field(ge=0)] = 3.0
    """Clip the global gradient norm to this; 0 is off."""


@dataclass(config=STRICT)
class ScheduleConfig:
    """The learning rate as a function of the applied steps."""

    kind: Literal["cosine", "linear", "exponential", "constant"] = "cosine"
    """Shape after warm-up and `hold`. Tri-stage is `linear` (paper) or `exponential` (published code) with a hold."""
    steps: Annotated[int | None, Field(ge=1)] = None
    """Length of the schedule in applied steps; null is `train.steps`."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up from `lr_start`."""
    hold: Annotated[int, Field(ge=0)] = 0
    """Steps at the peak after the warm-up."""
    lr_start: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate of the first step of the warm-up."""
    lr_end: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate at the end of the schedule."""


@dataclass(config=STRICT)
class BatchConfig:
    """The batch. For images `micro` must divide `global / ranks`; speech and text are cut by length."""

    global_: Annotated[int, Field(alias="global", ge=1)] = 64
    """Samples per optimizer step over all ranks; their mean where `equal` is tokens."""
    micro: Annotated[int, Field(ge=1)] = 32
    """Samples per forward pass on one rank; for speech and text at most so many."""
    micro_tokens: Annotated[int | None, Field(ge=1)] = None
    """Speech and text: at most so many frames or subwords, padding included, per forward pass on one rank; null: no
    limit but `micro`."""
    equal: Literal["samples", "tokens"] = "samples"
    """Speech and text: steps of `global` samples, or of about equal numbers of frames or subwords."""


@dataclass(config=STRICT)
class DataConfig:
    """Which shards, and how they are read."""

    shards: Shards = ""
    """Tar shards: a folder, a glob or braces, e.g. /data/train-{000000..000146}.tar; local, or remote (s3://, gs://,
    http://, https://); or a list, as [/data/a,/data/b]."""
    weights: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Samples of each item of the list `shards` in every `sum of weights` of a lane; null: the list is one data set."""
    epoch: Literal["mixture", "source"] = "mixture"
    """With `weights`: `mixture`: an epoch ends when the first item has no samples left, and no sample comes twice in
    it; `source`: every item begins anew when it has no samples left."""
    lanes: Annotated[int | None, Field(ge=1)] = None
    """Lanes of the epoch's order: a divisor of `batch.global` and a multiple of every rank count to come.
    Null takes the largest divisor of `batch.global` up to 768. Kept in the checkpoint."""
    window: Annotated[int, Field(ge=1)] = 1024
    """Positions of a lane that are shuffled together."""
    chunk_bytes: Annotated[int, Field(ge=1)] = 8 * 2**20
    """Runs of about this many bytes of one shard stay together before the window shuffle; remote shards are read in
    them."""
    workers: Annotated[int, Field(ge=0)] = 1
    """Loader processes per rank; 0 loads in the training process."""
    prefetch: Annotated[int, Field(ge=1)] = 2
    """Micro-batches each worker prepares ahead."""
    read_ahead_mb: Annotated[int, Field(ge=0)] = 1024
    """MiB of coming chunks that a process of each rank fetches ahead: from remote shards into the cache, from local
    files into the system's page cache. 0, or no `workers`: nothing is read ahead."""
    cache_dir: str = ""
    """Folder on this node for chunks of remote shards, shared by its ranks and jobs; "" is one in the system's
    temporary folder."""
    cache_gb: Annotated[float, Field(gt=0)] = 32.0
    """Most that the cache holds, in GiB."""
    retries: Annotated[int, Field(ge=0)] = 6
    """How often a failed request to a remote store is repeated, after growing waits."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds after which a request to a remote store has failed."""
    max_sample_mb: Annotated[int, Field(ge=1)] = 256
    """Samples of more than so many MiB are bad samples."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Stop when more than this fraction of the samples read could not be used..."""
    max_bad_samples: Annotated[int, Field(ge=0)] = 100
    """...and more than this many; ..."""
    max_bad_streak: Annotated[int, Field(ge=1)] = 100
    """...or when on one rank so many in a row could not be used."""


@dataclass(config=STRICT)
class TrainConfig:
    """How long, and from which seed."""

    steps: Annotated[int, Field(ge=0)] = 1000
    """Steps after which this run stops."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of weights, order, masks, augmentation and dropout."""
