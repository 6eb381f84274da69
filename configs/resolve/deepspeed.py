"""The config -> DeepSpeed's dict. Generated, so that no number is written twice."""

from __future__ import annotations

from typing import Any

from configs.checks.run import Precision, resolve_precision
from configs.schema import PretrainConfig

NEVER = 10**9
"""A step count that no run reaches."""


def deepspeed_config(config: PretrainConfig, world: int, cuda: bool) -> dict[str, Any]:
    """The configuration for `deepspeed.initialize` on `world` ranks, on GPUs (`cuda`) or CPUs.

    `config` has passed `check`. Raises ValueError for fp16 on a CPU.
    """
    precision = resolve_precision(config, cuda)
    return {
        # The engine says itself which micro-batch is a step's last, and their number may differ from step to step:
        # these three are for DeepSpeed's form alone.
        "train_batch_size": config.batch.micro * world,
        "train_micro_batch_size_per_gpu": config.batch.micro,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.clip,
        "zero_optimization": _zero(config, cuda),
        # Our optimizer is the base optimizer plus the teacher; with offload DeepSpeed would insist on its own CPUAdam.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # Metrics and clocks are our own: one TensorBoard writer, no prints by DeepSpeed.
        "steps_per_print": NEVER,
        "wall_clock_breakdown": False,
        **_precision(precision),
        **_accumulation(config, precision),
    }


def _precision(precision: Precision) -> dict[str, Any]:
    """The sections `bf16` and `fp16`. In fp32 neither is enabled."""
    return {
        # check_grad_overflow: its default has changed between releases; a non-finite step must be skipped, and seen.
        "bf16": {"enabled": precision == "bf16", "check_grad_overflow": True},
        # loss_scale 0 is the dynamic one.
        "fp16": {"enabled": precision == "fp16", "loss_scale": 0, "initial_scale_power": 16, "loss_scale_window": 1000},
    }


def _accumulation(config: PretrainConfig, precision: Precision) -> dict[str, Any]:
    """The section for sums of micro-batches in fp32, if DeepSpeed can: in 16 bits small addends are lost.

    It cannot in stage 0. In stages 1 and 2 with offload a skipped step does not clear the fp32 sums, so that one
    non-finite gradient would make every later step a skipped one (seen in 0.19.8).
    """
    ours = config.deepspeed
    if precision == "fp32" or ours.stage == 0 or (ours.offload_optimizer and ours.stage < 3):
        return {}
    return {"data_types": {"grad_accum_dtype": "fp32"}}


def _zero(config: PretrainConfig, cuda: bool) -> dict[str, Any]:
    """The section `zero_optimization`."""
    ours = config.deepspeed
    zero: dict[str, Any] = {
        "stage": ours.stage,
        "contiguous_gradients": True,
        "overlap_comm": cuda,  # a CPU has no streams to overlap on
        "reduce_bucket_size": ours.bucket_elements,
        "allgather_bucket_size": ours.bucket_elements,
    }
    if ours.stage == 3:
        zero["stage3_prefetch_bucket_size"] = ours.bucket_elements
        # DeepSpeed's default, 1e9 elements, would keep a Large student and its teacher whole once they were gathered.
        zero["stage3_max_live_parameters"] = 2 * ours.bucket_elements
        zero["stage3_max_reuse_distance"] = 2 * ours.bucket_elements
        zero["stage3_param_persistence_threshold"] = ours.persistence_threshold
    if ours.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": cuda}
    return zero
