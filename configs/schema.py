"""Every key of the configuration: its type, default, meaning and bounds.

Defaults live here; the YAML files of `configs/` hold only the values that differ from them. `compose.py` turns
hydra's result into these classes and names unknown keys. A field that is a Python keyword (`batch.global`) carries
an alias; the alias is the key that users write.
"""

from __future__ import annotations

from typing import Literal

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
    layers: int = Field(4, ge=1)
    """Number of blocks."""
    width: int = Field(128, ge=8)
    """Width of the residual stream, H."""
    heads: int = Field(4, ge=1)
    """Attention heads; must divide `width`."""
    ffn: int = Field(512, ge=8)
    """Width of the feed-forward layer."""
    layer_scale: float = Field(1e-4, ge=0)
    """Initial value of LayerScale's gamma; 0 leaves LayerScale out."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout after the attention and feed-forward projections."""
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of attention probabilities."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth of the last block; linear from 0 at the first."""
    activation_checkpointing: bool = False
    """Recompute each student block in the backward pass: less memory, about a third more compute."""
    compile: bool = False
    """Compile the blocks with torch.compile."""


@dataclass(config=_STRICT)
class VisionMaskConfig:
    """BEiT block masks on the patch grid."""

    patches: int = Field(120, ge=1)
    """At most this many masked patches per image (published: 120 of 196)."""
    min_block: int = Field(16, ge=1)
    """Smallest area of a block, in patches."""
    max_block: int = Field(196, ge=1)
    """Largest area of a block, in patches."""
    min_aspect: float = Field(0.3, gt=0, le=1)
    """Aspect ratios are log-uniform in [min_aspect, 1 / min_aspect]."""


@dataclass(config=_STRICT)
class VisionConfig:
    """Images: geometry, augmentation and masks (group `modality`, file vision.yaml)."""

    image_size: int = Field(224, ge=8)
    """Side of the square crop, in pixels; a multiple of `patch_size`."""
    patch_size: int = Field(16, ge=1)
    """Side of a patch, in pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Random resized crop: range of the area fraction."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Random resized crop: range of the aspect ratio."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    jitter: float = Field(0.4, ge=0, le=1)
    """Strength of brightness, contrast and saturation jitter; 0 is off."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Channel means, of images in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Channel standard deviations, of images in [0, 1]."""
    mask: VisionMaskConfig = Field(default_factory=VisionMaskConfig)
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

    decay: float = Field(0.9998, ge=0, le=1)
    """Decay tau at the first step."""
    decay_end: float | None = Field(None, ge=0, le=1)
    """Decay after `decay_steps`; null keeps `decay` throughout."""
    decay_steps: int = Field(0, ge=0)
    """Applied steps of the linear ramp from `decay` to `decay_end`."""
    layers: int = Field(6, ge=1)
    """K: the targets average the top K blocks."""
    block_norm: Normalisation = "layer"
    """Normalisation of each block's output before averaging, without affine."""
    mean_norm: Normalisation = "layer"
    """Normalisation of the average, without affine."""


@dataclass(config=_STRICT)
class LossConfig:
    """The regression loss at masked positions."""

    beta: float = Field(2.0, ge=0)
    """Smooth-L1 beta; 0 is the mean squared error without the factor 1/2."""


@dataclass(config=_STRICT)
class OptimizerConfig:
    """AdamW and what is clipped and decayed."""

    lr: float = Field(5e-4, gt=0)
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates of the first and second moment."""
    eps: float = Field(1e-8, gt=0)
    """Adam's epsilon."""
    weight_decay: float = Field(0.05, ge=0)
    """Decoupled weight decay."""
    decay_rule: Literal["matrices", "all"] = "matrices"
    """`matrices`: no decay for 1-D tensors, biases and the CLS token; `all`: decay everything."""
    clip: float = Field(3.0, ge=0)
    """Clip the global gradient norm to this; 0 is off."""


@dataclass(config=_STRICT)
class ScheduleConfig:
    """The learning rate as a function of the applied steps."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape after the warm-up."""
    steps: int | None = Field(None, ge=1)
    """Length of the schedule in applied steps; null is `train.steps`."""
    warmup: int = Field(0, ge=0)
    """Steps of linear warm-up from 0."""
    lr_end: float = Field(0.0, ge=0)
    """Learning rate at the end of the schedule."""


@dataclass(config=_STRICT)
class BatchConfig:
    """The batch. `micro` must divide `global / ranks`."""

    global_: int = Field(64, alias="global", ge=1)
    """Samples per optimizer step over all ranks."""
    micro: int = Field(32, ge=1)
    """Samples per forward pass on one rank."""


@dataclass(config=_STRICT)
class DataConfig:
    """Which shards, and how they are read."""

    shards: str = ""
    """Tar shards: a folder, a glob or braces, e.g. /data/train-{000000..000146}.tar."""
    lanes: int | None = Field(None, ge=1)
    """Lanes of the epoch's order: a divisor of `batch.global` and a multiple of every rank count to come.
    Null takes the largest divisor of `batch.global` up to 768. Kept in the checkpoint."""
    window: int = Field(1024, ge=1)
    """Positions of a lane that are shuffled together."""
    chunk_bytes: int = Field(8 * 2**20, ge=1)
    """Runs of about this many bytes of one shard stay together before the window shuffle."""
    workers: int = Field(1, ge=0)
    """Loader processes per rank; 0 loads in the training process."""
    prefetch: int = Field(2, ge=1)
    """Micro-batches each worker prepares ahead."""
    max_bad_fraction: float = Field(0.001, ge=0, le=1)
    """Stop when more than this fraction of the samples read could not be used..."""
    max_bad_samples: int = Field(100, ge=0)
    """...and more than this many."""


@dataclass(config=_STRICT)
class TrainConfig:
    """How long, and from which seed."""

    steps: int = Field(1000, ge=0)
    """Steps after which this run stops."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of weights, order, masks, augmentation and dropout."""


@dataclass(config=_STRICT)
class DeepSpeedConfig:
    """ZeRO (group `deepspeed`: zero0, zero1, zero2, zero3)."""

    stage: int = Field(1, ge=0, le=3)
    """ZeRO stage."""
    offload_optimizer: bool = False
    """Keep optimizer states, the teacher included, in CPU memory and update them there."""
    bucket_elements: int = Field(50_000_000, ge=1)
    """Elements per gradient reduction."""
    persistence_threshold: int = Field(100_000, ge=0)
    """ZeRO 3: parameters smaller than this stay whole on every rank."""


@dataclass(config=_STRICT)
class RunConfig:
    """The run directory."""

    dir: str = ""
    """Where config, metrics, TensorBoard files and checkpoints go; an existing run resumes."""


@dataclass(config=_STRICT)
class LogConfig:
    """What is written, and how often."""

    every: int = Field(10, ge=1)
    """Steps between rows of metrics.jsonl and TensorBoard."""
    pictures_every: int = Field(500, ge=0)
    """Steps between pictures of a masked batch; 0 is off."""
    progress: bool = True
    """Progress bar on rank 0."""
    peak_tflops: float | None = Field(None, gt=0)
    """The device's peak, for MFU; null takes the known figure of the GPU, or measures a CPU's matrix products."""


@dataclass(config=_STRICT)
class CheckpointConfig:
    """When to save and what to keep."""

    every: int = Field(500, ge=0)
    """Steps between checkpoints; 0 saves only at the end."""
    keep: int = Field(2, ge=1)
    """Newest checkpoints kept."""


@dataclass(config=_STRICT)
class GuardConfig:
    """When a run stops by itself."""

    max_skipped: int = Field(20, ge=1)
    """Stop after this many skipped (non-finite) steps in a row."""


@dataclass(config=_STRICT)
class ProbeConfig:
    """k-NN and linear probe of the teacher's features on labelled images."""

    train_shards: str = ""
    """Labelled shards whose features are the reference; "" turns the probe off."""
    test_shards: str = ""
    """Labelled held-out shards."""
    train_samples: int = Field(5000, ge=1)
    """Reference images."""
    test_samples: int = Field(2000, ge=1)
    """Held-out images."""
    k: int = Field(20, ge=1)
    """Neighbours."""


@dataclass(config=_STRICT)
class LaunchConfig:
    """Processes and the rendezvous."""

    ranks: int | None = Field(None, ge=1)
    """Processes on each node; null is the number of GPUs, or 1 on a CPU."""
    port: int | None = Field(None, ge=1, le=65535)
    """Port of the rendezvous; null takes a free one."""
    threads: int | None = Field(None, ge=1)
    """Torch threads per process; null is cores / ranks."""


@dataclass(config=_STRICT)
class ClusterConfig:
    """Where processes run (group `cluster`: local, hostfile, slurm, manual)."""

    kind: Literal["local", "hostfile", "slurm", "manual"] = "local"
    """`manual` prints nothing and starts this node's processes: run it once per node."""
    hostfile: str = ""
    """DeepSpeed hostfile, for `hostfile`."""
    nodes: int = Field(1, ge=1)
    """Number of nodes, for `slurm` and `manual`."""
    node_rank: int = Field(0, ge=0)
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
    model: ModelConfig = Field(default_factory=ModelConfig)
    vision: VisionConfig = Field(default_factory=VisionConfig)
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    batch: BatchConfig = Field(default_factory=BatchConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    deepspeed: DeepSpeedConfig = Field(default_factory=DeepSpeedConfig)
    run: RunConfig = Field(default_factory=RunConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    guard: GuardConfig = Field(default_factory=GuardConfig)
    probe: ProbeConfig = Field(default_factory=ProbeConfig)
    launch: LaunchConfig = Field(default_factory=LaunchConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)


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
    shard_mb: int = Field(256, ge=1)
    """Size at which a shard is closed, in MiB."""
    workers: int | None = Field(None, ge=1)
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
    k: int = Field(20, ge=1)
    """Neighbours."""


@dataclass(config=_STRICT)
class BoardConfig:
    """`./run.sh board`."""

    run: str
    """Run directory, or a folder of several."""
    port: int = Field(6006, ge=1, le=65535)
    """Port of TensorBoard's page."""
    host: str = "localhost"
    """Address it listens on; 0.0.0.0 for any."""
