"""The keys of running: ZeRO, the run directory, logs, checkpoints, guards, probes, processes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from configs.schema_modalities import STRICT, LocalPath
from configs.schema_training import (
    Shards,
)


@dataclass(config=STRICT)
class DeepSpeedConfig:
    """ZeRO (group `deepspeed`: zero0, zero1, zero2, zero3)."""

    stage: Annotated[int, Field(ge=0, le=3)] = 1
    """ZeRO stage: states that are divided among the ranks. 0: none. 1: the optimizer's, teacher included. 2: gradients
    too. 3: parameters too."""
    offload_optimizer: bool = False
    """Keep the optimizer's states, teacher included, in CPU memory, and update them there. Needs `deepspeed.stage` 1, 2
    or 3."""
    bucket_elements: Annotated[int, Field(ge=2, multiple_of=2)] = 50_000_000
    """Number of elements in a bucket, an even number: gradients are reduced and parameters gathered a bucket at a time.
    Smaller buckets need less memory."""
    persistence_threshold: Annotated[int, Field(ge=0)] = 100_000
    """Parameters with fewer elements than this stay whole on every rank in ZeRO 3. 0: all are divided."""


@dataclass(config=STRICT)
class TrainConfig:
    """Length and seed of a run."""

    steps: Annotated[int, Field(ge=0)] = 1000
    """Step after which the run stops. 0: no step is taken."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of weights, order, masks, augmentation and dropout, from 0 to 2^31 - 1."""


@dataclass(config=STRICT)
class RunConfig:
    """The run directory."""

    dir: LocalPath = ""
    """Run directory: configuration, metrics, TensorBoard files and checkpoints. A run that is there already is resumed.
    "": runs/RECIPE for a demo; other runs need a directory."""


@dataclass(config=STRICT)
class LogConfig:
    """Metrics, pictures and the progress bar."""

    every: Annotated[int, Field(ge=1)] = 10
    """Number of steps between rows of metrics.jsonl, TensorBoard and the screen."""
    pictures_every: Annotated[int, Field(ge=0)] = 500
    """Number of steps between pictures of a masked batch in TensorBoard. 0: no pictures."""
    wandb: bool = False
    """Send the figures to Weights & Biases, too. Needs the package wandb. Its own variables say where they go, e.g.
    WANDB_PROJECT=NAME or WANDB_MODE=offline."""
    progress: bool = True
    """Show a progress bar, and a row of figures every `log.every` steps (rank 0)."""
    peak_tflops: Annotated[float | None, Field(gt=0)] = None
    """Peak of a device in TFLOP/s, above 0, for the model FLOPs utilisation (MFU). Null: the known peak of the GPU, or
    on a CPU a measured one; without either no MFU is reported."""


@dataclass(config=STRICT)
class CheckpointConfig:
    """When checkpoints are saved, and which are kept."""

    every: Annotated[int, Field(ge=0)] = 500
    """Number of steps between checkpoints. 0: only one at the end."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Number of newest checkpoints that are kept."""
    keep_every: Annotated[int, Field(ge=0)] = 0
    """Keep for good the checkpoints of steps that are multiples of this. A multiple of `checkpoint.every`. 0: none."""
    asynchronous: bool = True
    """Write checkpoints while training goes on, from a copy in host memory. The copy takes 16 bytes per parameter,
    divided by the number of ranks; in ZeRO 0 rank 0 holds all of it. False: training waits for the write."""


@dataclass(config=STRICT)
class GuardConfig:
    """Reactions of a run to bad steps, and to representations that collapse."""

    max_skipped: Annotated[int, Field(ge=1)] = 20
    """Number of consecutive steps with a loss or gradient that is not finite that stops the run. Such steps are
    skipped."""
    spike: Literal["off", "warn", "skip", "rollback"] = "warn"
    """Reaction to a spike, a loss or gradient norm far above the recent ones. off: none. warn: report it. skip: leave
    out the step. rollback: go back to the last checkpoint, and go on with the batches after the spike's."""
    spike_sigma: Annotated[float, Field(gt=0)] = 6.0
    """Distance above the recent mean from which a loss or gradient norm is a spike, in standard deviations. The mean is
    over `guard.spike_window` steps."""
    spike_window: Annotated[int, Field(ge=8)] = 128
    """Number of recent applied steps, of the same modality, that a loss or gradient norm is compared with. No step is a
    spike before a quarter of them are there."""
    max_spikes: Annotated[int, Field(ge=1)] = 20
    """Number of consecutive skipped spikes, or of rollbacks to one checkpoint, that stops the run."""
    collapse: Literal["off", "warn", "stop"] = "warn"
    """Reaction to a collapse: targets, predictions or a module's outputs are nearly the same for every token. off:
    none. warn: report it. stop: end the run."""
    collapse_every: Annotated[int, Field(ge=1)] = 100
    """Number of steps between measurements of the modules' outputs, which show a collapse."""
    min_target_std: Annotated[float, Field(ge=0)] = 0.1
    """Smallest standard deviation of targets over tokens; below it they have collapsed. Checked after `guard.std_after`
    applied steps. 0: no check. Published for speech: 0.1."""
    min_prediction_std: Annotated[float, Field(ge=0)] = 0.01
    """Smallest standard deviation of predictions over tokens; below it they have collapsed. Checked after
    `guard.std_after` applied steps. 0: no check. Published for speech: 0.01."""
    std_after: Annotated[int, Field(ge=0)] = 5000
    """Number of steps before targets and predictions are checked for collapse, and before the student's blocks are
    compared with their first measurement. Healthy students at first predict little but the mean. Published for speech:
    5000."""
    min_module_std: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Smallest standard deviation of a module's outputs over tokens, as a fraction of its first measurement, in [0, 1].
    Below it, or below 1e-4 in all, the module has collapsed. 0: no check."""
    min_module_rank: Annotated[float, Field(ge=1)] = 1.2
    """Smallest effective rank of a module's outputs, the number of directions in which tokens differ. Below it the
    module has collapsed. 1: no check."""
    min_sample_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Smallest share of the variance of a teacher's module that is between samples at one position, in [0, 1]. Below
    it the module says where a token is and hardly what it holds. 0: no check."""


@dataclass(config=STRICT)
class WatchdogConfig:
    """Longest time that a run may stand still. Beyond it, every rank writes its stacks to RUN/hangs/, and the run ends
    with exit code 76."""

    start_s: Annotated[float, Field(ge=0)] = 1800.0
    """Longest start of a run in seconds: model, index, checkpoint. A longer one ends the run with exit code 76, and
    stacks in RUN/hangs/. 0: no limit."""
    data_s: Annotated[float, Field(ge=0)] = 900.0
    """Longest wait of a step for its data in seconds. A longer one ends the run with exit code 76, and stacks in
    RUN/hangs/. 0: no limit."""
    step_s: Annotated[float, Field(ge=0)] = 900.0
    """Longest computation of a step in seconds, waits for other ranks included. A longer one ends the run with exit
    code 76, and stacks in RUN/hangs/. 0: no limit."""
    save_s: Annotated[float, Field(ge=0)] = 1800.0
    """Longest wait of training for a checkpoint in seconds. A longer one ends the run with exit code 76, and stacks in
    RUN/hangs/. 0: no limit."""
    probe_s: Annotated[float, Field(ge=0)] = 1800.0
    """Longest time in seconds in which a probe does not get on by a sample, a batch or a classifier. A longer one ends
    the run with exit code 76, and stacks in RUN/hangs/. 0: no limit."""


@dataclass(config=STRICT)
class ProbeConfig:
    """k-NN and linear probe of the teacher's features on labelled samples, at the start and the end of a run."""

    train_shards: Shards = ""
    """Labelled reference shards of the k-NN and linear probe, in the forms of `data.shards`. Needs `probe.test_shards`.
    "": no probe. A mixture uses `mixture.MODALITY.probe_train_shards`."""
    test_shards: Shards = ""
    """Labelled held-out shards that the probe measures accuracy on, in the forms of `data.shards`. None of the samples
    taken may be in `probe.train_shards` or `data.shards`. Needs `probe.train_shards`. "": no probe. A mixture uses
    `mixture.MODALITY.probe_test_shards`."""
    train_samples: Annotated[int, Field(ge=1)] = 5000
    """Largest number of samples taken from `probe.train_shards`."""
    test_samples: Annotated[int, Field(ge=1)] = 2000
    """Largest number of samples taken from `probe.test_shards`."""
    k: Annotated[int, Field(ge=1)] = 20
    """Number of nearest neighbours that vote in the k-NN probe."""


@dataclass(config=STRICT)
class LaunchConfig:
    """Processes and the rendezvous."""

    ranks: Annotated[int | None, Field(ge=1, le=1024)] = None
    """Number of training processes on each node, at most 1024. Null: one per GPU (cluster=hostfile: per slot), or one
    without GPUs. Null in a demo: two, or one on a single GPU."""
    port: Annotated[int | None, Field(ge=1, le=65535)] = None
    """Port at which all nodes meet, from 1 to 65535. Null: any free one for cluster=local, a number made from the job's
    for cluster=slurm, else 29500."""
    threads: Annotated[int | None, Field(ge=1, le=1024)] = None
    """Torch threads of each process, at most 1024. Null: the node's cores divided by its ranks, at least 1."""


@dataclass(config=STRICT)
class ClusterConfig:
    """The nodes that a run uses, and how they are started (group `cluster`: local, hostfile, slurm, manual)."""

    kind: Literal["local", "hostfile", "slurm", "manual"] = "local"
    """Way to start the nodes; set it with cluster=KIND. local: this machine alone. hostfile: all hosts of
    `cluster.hostfile`, from here through pdsh and ssh. slurm: by srun, one task per node. manual: this node alone; run
    the command once on each node."""
    hostfile: LocalPath = ""
    """File with a line 'HOST slots=GPUS' per node, for cluster=hostfile. "": none."""
    nodes: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Number of nodes, at most 100,000, for cluster=manual."""
    node_rank: Annotated[int, Field(ge=0)] = 0
    """Number of this node, from 0 to `cluster.nodes` - 1, for cluster=manual."""
    master: str = ""
    """Address of node 0, for cluster=manual and cluster=slurm. "": under Slurm the job's first host; cluster=manual
    needs it for several nodes."""
