"""The keys of running: ZeRO, the run directory, logs, checkpoints, guards, probes, processes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from configs.schema_modalities import STRICT
from configs.schema_training import (
    Shards,
)


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
