"""Every key of the configuration: its type, default, meaning and bounds.

Defaults live here; the YAML files of `configs/` hold only the values that differ from them. `compose.py` turns
hydra's result into these classes and names unknown keys. A field that is a Python keyword (`batch.global`) carries
an alias; the alias is the key that users write.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from configs.schema_modalities import (
    MODALITIES,
    PUBLISHED,
    STRICT,
    Modality,
    Normalisation,
    SpeechConfig,
    TextConfig,
    VisionConfig,
)


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


@dataclass(config=STRICT)
class DeepSpeedConfig:
    """ZeRO (group `deepspeed`: zero0, zero1, zero2, zero3)."""

    stage: Annotated[int, Field(ge=0, le=3)] = 1
    """ZeRO stage."""
    offload_optimizer: bool = False
    """Keep optimizer states, the teacher included, in CPU memory and update them there."""
    bucket_elements: Annotated[int, Field(ge=1)] = 50_000_000
    """Elements per gradient reduction."""
    persistence_threshold: Annotated[int, Field(ge=0)] = 100_000
    """ZeRO 3: parameters smaller than this stay whole on every rank."""


@dataclass(config=STRICT)
class RunConfig:
    """The run directory."""

    dir: str = ""
    """Where config, metrics, TensorBoard files and checkpoints go; an existing run resumes."""


@dataclass(config=STRICT)
class LogConfig:
    """What is written, and how often."""

    every: Annotated[int, Field(ge=1)] = 10
    """Steps between rows of metrics.jsonl and TensorBoard."""
    pictures_every: Annotated[int, Field(ge=0)] = 500
    """Steps between pictures of a masked batch; 0 is off."""
    progress: bool = True
    """Progress bar on rank 0."""
    peak_tflops: Annotated[float | None, Field(gt=0)] = None
    """The device's peak, for MFU; null takes the known figure of the GPU, or measures a CPU's matrix products."""


@dataclass(config=STRICT)
class CheckpointConfig:
    """When to save and what to keep."""

    every: Annotated[int, Field(ge=0)] = 500
    """Steps between checkpoints; 0 saves only at the end."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Newest checkpoints kept."""
    keep_every: Annotated[int, Field(ge=0)] = 0
    """Checkpoints of steps that are multiples of this are kept for good; 0 is none."""
    asynchronous: bool = True
    """Write checkpoints beside the training, from a copy in host memory (16 bytes per parameter / ranks)."""


@dataclass(config=STRICT)
class GuardConfig:
    """What a run does about steps that are bad and representations that collapse."""

    max_skipped: Annotated[int, Field(ge=1)] = 20
    """Stop after this many steps in a row whose loss or gradient was not finite."""
    spike: Literal["off", "warn", "skip", "rollback"] = "warn"
    """A loss or gradient norm far above those before: say so, leave the step out, or go back to the last checkpoint and
    on behind the step's batch."""
    spike_sigma: Annotated[float, Field(gt=0)] = 6.0
    """A spike is so many standard deviations above the mean of the window."""
    spike_window: Annotated[int, Field(ge=8)] = 128
    """Applied steps of the same modality that are the window; nothing is judged before a quarter of it is full."""
    max_spikes: Annotated[int, Field(ge=1)] = 20
    """Stop after this many skipped spikes in a row, or rollbacks to one checkpoint."""
    collapse: Literal["off", "warn", "stop"] = "warn"
    """What to do where targets, predictions or the outputs of a module hardly vary any more."""
    collapse_every: Annotated[int, Field(ge=1)] = 100
    """Steps between measurements of the modules."""
    min_target_std: Annotated[float, Field(ge=0)] = 0.1
    """Least standard deviation of targets after `std_after` updates (published for speech)."""
    min_prediction_std: Annotated[float, Field(ge=0)] = 0.01
    """The same of predictions (published for speech)."""
    std_after: Annotated[int, Field(ge=0)] = 5000
    """Updates before those two are looked at (published), and steps before a block of the student is held against its
    first measurement: healthy students at first predict little but the mean."""
    min_module_std: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Least standard deviation of a module's outputs over tokens, as a fraction of its first measurement."""
    min_module_rank: Annotated[float, Field(ge=1)] = 1.2
    """Least effective rank of a module's outputs."""


@dataclass(config=STRICT)
class WatchdogConfig:
    """How long a run may stand still: then every rank writes its stacks to RUN/hangs/ and ends with exit code 76."""

    data_s: Annotated[float, Field(ge=0)] = 900.0
    """Seconds that a step may wait for its data; 0 is no limit."""
    step_s: Annotated[float, Field(ge=0)] = 900.0
    """Seconds that a step's computation may take, waiting for other ranks included; 0 is no limit."""
    save_s: Annotated[float, Field(ge=0)] = 1800.0
    """Seconds that training may wait for a checkpoint to be written; 0 is no limit."""


@dataclass(config=STRICT)
class ProbeConfig:
    """k-NN and linear probe of the teacher's features on labelled samples."""

    train_shards: Shards = ""
    """Labelled shards whose features are the reference; "" turns the probe off."""
    test_shards: Shards = ""
    """Labelled held-out shards."""
    train_samples: Annotated[int, Field(ge=1)] = 5000
    """Reference samples."""
    test_samples: Annotated[int, Field(ge=1)] = 2000
    """Held-out samples."""
    k: Annotated[int, Field(ge=1)] = 20
    """Neighbours."""


@dataclass(config=STRICT)
class LaunchConfig:
    """Processes and the rendezvous."""

    ranks: Annotated[int | None, Field(ge=1)] = None
    """Processes on each node; null is the number of GPUs (with a hostfile: its slots), or 1 on a CPU."""
    port: Annotated[int | None, Field(ge=1, le=65535)] = None
    """Port of the rendezvous; null is a free one (`local`), one made from the job's number (`slurm`), else 29500."""
    threads: Annotated[int | None, Field(ge=1)] = None
    """Torch threads per process; null is cores / ranks."""


@dataclass(config=STRICT)
class ClusterConfig:
    """Where processes run (group `cluster`: local, hostfile, slurm, manual)."""

    kind: Literal["local", "hostfile", "slurm", "manual"] = "local"
    """`manual` prints nothing and starts this node's processes: run it once per node."""
    hostfile: str = ""
    """DeepSpeed hostfile, for `hostfile`."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """Number of nodes, for `manual`."""
    node_rank: Annotated[int, Field(ge=0)] = 0
    """This node, for `manual`."""
    master: str = "localhost"
    """Address of node 0, for `manual` and `slurm`."""


@dataclass(config=STRICT)
class PretrainConfig:
    """The whole configuration of `./run.sh pretrain`."""

    recipe: str = "demo"
    """Name of the recipe, for logs."""
    demo: bool = False
    """Build shards of each modality's packaged images, recordings or texts where `data.shards` is empty."""
    modality: Modality | tuple[Modality, ...] = "vision"
    """What the samples are; a list, as [vision,speech,text], for a mixture (see `mixture`)."""
    init: str = ""
    """Start from this student: a run directory or a Hugging Face folder; "" is a random start."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """`auto` is bf16 on a GPU and fp32 on a CPU."""
    model: ModelConfig = field(default_factory=ModelConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    text: TextConfig = field(default_factory=TextConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    run: RunConfig = field(default_factory=RunConfig)
    log: LogConfig = field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The run's modalities, in an order of their own: one, or those of the mixture."""
        named = (self.modality,) if isinstance(self.modality, str) else self.modality
        return tuple(modality for modality in MODALITIES if modality in named)

    @property
    def is_mixture(self) -> bool:
        """Whether `modality` is a list of several."""
        return len(self.modalities) > 1

    def part(self, modality: Modality) -> PretrainConfig:
        """This run's configuration for one of its modalities: nulls replaced by the modality's own values, and in a
        mixture batch, shards and probe by those of `mixture.MODALITY`. `part` of a part is itself."""
        own = PUBLISHED[modality]
        norm = own.norm if not self.is_mixture or self.mixture.blocks == "separate" else "pre"
        model = replace(
            self.model,
            norm=self.model.norm or norm,
            dropout=own.dropout if self.model.dropout is None else self.model.dropout,
            attention_dropout=own.dropout if self.model.attention_dropout is None else self.model.attention_dropout,
        )
        teacher = replace(
            self.teacher,
            average=self.teacher.average or own.average,
            layers=self.teacher.layers or own.layers,
            target=self.teacher.target or own.target,
            block_norm=self.teacher.block_norm or own.block_norm,
            mean_norm=self.teacher.mean_norm or own.mean_norm,
        )
        beta = own.beta if self.loss.beta is None else self.loss.beta
        loss = LossConfig(beta, self.loss.reduction or own.reduction)
        batch = replace(self.batch, equal="samples") if modality == "vision" else self.batch
        part = replace(self, modality=modality, model=model, teacher=teacher, loss=loss, batch=batch)
        return part._with_share(getattr(self.mixture, modality)) if self.is_mixture else part

    def _with_share(self, share: MixturePart) -> PretrainConfig:
        batch = replace(
            self.batch,
            global_=share.global_ or self.batch.global_,
            micro=share.micro or self.batch.micro,
            micro_tokens=share.micro_tokens or self.batch.micro_tokens,
        )
        data = replace(self.data, shards=share.shards, weights=share.weights)
        probe = replace(self.probe, train_shards=share.probe_train_shards, test_shards=share.probe_test_shards)
        return replace(self, batch=batch, data=data, probe=probe)
