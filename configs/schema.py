"""Every key of the configuration: its type, default, meaning and bounds.

Defaults live here; the YAML files of `configs/` hold only the values that differ from them. `compose.py` turns
hydra's result into these classes and names unknown keys. A field that is a Python keyword (`batch.global`) carries
an alias; the alias is the key that users write.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_by_name=True, validate_by_alias=True)

Modality = Literal["vision"]
Normalisation = Literal["layer", "none"]


@dataclass(config=_STRICT)
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
    layer_scale: Annotated[float, Field(ge=0)] = 1e-4
    """Initial value of LayerScale's gamma; 0 leaves LayerScale out."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout after the attention and feed-forward projections."""
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of attention probabilities."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth of the last block; linear from 0 at the first."""
    activation_checkpointing: bool = False
    """Recompute each student block in the backward pass: less memory, about a third more compute."""
    compile: bool = False
    """Compile the blocks with torch.compile."""


@dataclass(config=_STRICT)
class VisionMaskConfig:
    """BEiT block masks on the patch grid."""

    patches: Annotated[int, Field(ge=1)] = 120
    """At most this many masked patches per image (published: 120 of 196)."""
    min_block: Annotated[int, Field(ge=1)] = 16
    """Smallest area of a block, in patches."""
    max_block: Annotated[int, Field(ge=1)] = 196
    """Largest area of a block, in patches."""
    min_aspect: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Aspect ratios are log-uniform in [min_aspect, 1 / min_aspect]."""


@dataclass(config=_STRICT)
class VisionConfig:
    """Images: geometry, augmentation and masks (group `modality`, file vision.yaml)."""

    image_size: Annotated[int, Field(ge=8)] = 224
    """Side of the square crop, in pixels; a multiple of `patch_size`."""
    patch_size: Annotated[int, Field(ge=1)] = 16
    """Side of a patch, in pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Random resized crop: range of the area fraction."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Random resized crop: range of the aspect ratio."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Strength of brightness, contrast and saturation jitter; 0 is off."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Channel means, of images in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Channel standard deviations, of images in [0, 1]."""
    mask: VisionMaskConfig = field(default_factory=VisionMaskConfig)
    """The patch masks."""

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Patches of one image (the CLS token not counted)."""
        return self.grid**2


@dataclass(config=_STRICT)
class TeacherConfig:
    """The exponential moving average and the targets made from it."""

    decay: Annotated[float, Field(ge=0, le=1)] = 0.9998
    """Decay tau at the first step."""
    decay_end: Annotated[float | None, Field(ge=0, le=1)] = None
    """Decay after `decay_steps`; null keeps `decay` throughout."""
    decay_steps: Annotated[int, Field(ge=0)] = 0
    """Applied steps of the linear ramp from `decay` to `decay_end`."""
    layers: Annotated[int, Field(ge=1)] = 6
    """K: the targets average the top K blocks."""
    block_norm: Normalisation = "layer"
    """Normalisation of each block's output before averaging, without affine."""
    mean_norm: Normalisation = "layer"
    """Normalisation of the average, without affine."""


@dataclass(config=_STRICT)
class LossConfig:
    """The regression loss at masked positions."""

    beta: Annotated[float, Field(ge=0)] = 2.0
    """Smooth-L1 beta; 0 is the mean squared error without the factor 1/2."""


@dataclass(config=_STRICT)
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


@dataclass(config=_STRICT)
class ScheduleConfig:
    """The learning rate as a function of the applied steps."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape after the warm-up."""
    steps: Annotated[int | None, Field(ge=1)] = None
    """Length of the schedule in applied steps; null is `train.steps`."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up from 0."""
    lr_end: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate at the end of the schedule."""


@dataclass(config=_STRICT)
class BatchConfig:
    """The batch. `micro` must divide `global / ranks`."""

    global_: Annotated[int, Field(alias="global", ge=1)] = 64
    """Samples per optimizer step over all ranks."""
    micro: Annotated[int, Field(ge=1)] = 32
    """Samples per forward pass on one rank."""


@dataclass(config=_STRICT)
class DataConfig:
    """Which shards, and how they are read."""

    shards: str = ""
    """Tar shards: a folder, a glob or braces, e.g. /data/train-{000000..000146}.tar."""
    lanes: Annotated[int | None, Field(ge=1)] = None
    """Lanes of the epoch's order: a divisor of `batch.global` and a multiple of every rank count to come.
    Null takes the largest divisor of `batch.global` up to 768. Kept in the checkpoint."""
    window: Annotated[int, Field(ge=1)] = 1024
    """Positions of a lane that are shuffled together."""
    chunk_bytes: Annotated[int, Field(ge=1)] = 8 * 2**20
    """Runs of about this many bytes of one shard stay together before the window shuffle."""
    workers: Annotated[int, Field(ge=0)] = 1
    """Loader processes per rank; 0 loads in the training process."""
    prefetch: Annotated[int, Field(ge=1)] = 2
    """Micro-batches each worker prepares ahead."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Stop when more than this fraction of the samples read could not be used..."""
    max_bad_samples: Annotated[int, Field(ge=0)] = 100
    """...and more than this many."""


@dataclass(config=_STRICT)
class TrainConfig:
    """How long, and from which seed."""

    steps: Annotated[int, Field(ge=0)] = 1000
    """Steps after which this run stops."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of weights, order, masks, augmentation and dropout."""


@dataclass(config=_STRICT)
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


@dataclass(config=_STRICT)
class RunConfig:
    """The run directory."""

    dir: str = ""
    """Where config, metrics, TensorBoard files and checkpoints go; an existing run resumes."""


@dataclass(config=_STRICT)
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


@dataclass(config=_STRICT)
class CheckpointConfig:
    """When to save and what to keep."""

    every: Annotated[int, Field(ge=0)] = 500
    """Steps between checkpoints; 0 saves only at the end."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Newest checkpoints kept."""


@dataclass(config=_STRICT)
class GuardConfig:
    """When a run stops by itself."""

    max_skipped: Annotated[int, Field(ge=1)] = 20
    """Stop after this many skipped (non-finite) steps in a row."""


@dataclass(config=_STRICT)
class ProbeConfig:
    """k-NN and linear probe of the teacher's features on labelled images."""

    train_shards: str = ""
    """Labelled shards whose features are the reference; "" turns the probe off."""
    test_shards: str = ""
    """Labelled held-out shards."""
    train_samples: Annotated[int, Field(ge=1)] = 5000
    """Reference images."""
    test_samples: Annotated[int, Field(ge=1)] = 2000
    """Held-out images."""
    k: Annotated[int, Field(ge=1)] = 20
    """Neighbours."""


@dataclass(config=_STRICT)
class LaunchConfig:
    """Processes and the rendezvous."""

    ranks: Annotated[int | None, Field(ge=1)] = None
    """Processes on each node; null is the number of GPUs (with a hostfile: its slots), or 1 on a CPU."""
    port: Annotated[int | None, Field(ge=1, le=65535)] = None
    """Port of the rendezvous; null is a free one (`local`), one made from the job's number (`slurm`), else 29500."""
    threads: Annotated[int | None, Field(ge=1)] = None
    """Torch threads per process; null is cores / ranks."""


@dataclass(config=_STRICT)
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


@dataclass(config=_STRICT)
class PretrainConfig:
    """The whole configuration of `./run.sh pretrain`."""

    recipe: str = "demo"
    """Name of the recipe, for logs."""
    demo: bool = False
    """Fetch the packaged images and build their shards where `data.shards` is empty."""
    modality: Modality = "vision"
    """What the samples are."""
    init: str = ""
    """Start from this student: a run directory or a Hugging Face folder; "" is a random start."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """`auto` is bf16 on a GPU and fp32 on a CPU."""
    model: ModelConfig = field(default_factory=ModelConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
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
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass(config=_STRICT)
class BuildConfig:
    """`./run.sh shards build`."""

    source: Literal["imagefolder", "demo"]
    """`imagefolder`: class folders or one flat folder of images; `demo`: the packaged demo images."""
    output: str
    """Folder of the shards."""
    input: str = ""
    """Folder of the source files (for `demo`: optional, a folder that already holds them)."""
    name: str = "train"
    """Shards are called NAME-000000.tar."""
    shard_mb: Annotated[int, Field(ge=1)] = 256
    """Size at which a shard is closed, in MiB."""
    workers: Annotated[int | None, Field(ge=1)] = None
    """Processes; null is the number of cores."""


@dataclass(config=_STRICT)
class ShardsConfig:
    """`./run.sh shards validate` and `shards index`."""

    shards: str
    """Tar shards: a folder, a glob or braces."""


@dataclass(config=_STRICT)
class ExportConfig:
    """`./run.sh export`."""

    run: str
    """Run directory."""
    out: str
    """Folder to write."""
    weights: Literal["teacher", "student"] = "teacher"
    """Which weights."""


@dataclass(config=_STRICT)
class ProbeCommandConfig:
    """`./run.sh probe`: keys left empty are those of the run."""

    run: str
    """Run directory."""
    weights: Literal["teacher", "student"] = "teacher"
    """Which weights."""
    train_shards: str = ""
    """Labelled reference shards."""
    test_shards: str = ""
    """Labelled held-out shards."""
    k: Annotated[int, Field(ge=1)] = 20
    """Neighbours."""


@dataclass(config=_STRICT)
class BoardConfig:
    """`./run.sh board`."""

    run: str
    """Run directory, or a folder of several."""
    port: Annotated[int, Field(ge=1, le=65535)] = 6006
    """Port of TensorBoard's page."""
    host: str = "localhost"
    """Address it listens on; 0.0.0.0 for any."""
