"""DeepSpeed takes the generated dict and means by it what the config says."""

import pytest

from configs.compose import compose_pretrain
from configs.resolve.deepspeed import deepspeed_config


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_accepts_it(stage: int, precision: str) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    config = compose_pretrain(
        [f"deepspeed=zero{stage}", f"precision={precision}", "batch.global=64", "batch.micro=8", "optimizer.clip=3"]
    )
    parsed = DeepSpeedConfig(deepspeed_config(config, world=1, cuda=precision == "fp16"))
    assert (parsed.train_micro_batch_size_per_gpu, parsed.gradient_accumulation_steps) == (8, 1)
    assert (parsed.zero_config.stage, parsed.gradient_clipping) == (stage, 3)
    assert (parsed.bfloat16_config.enabled, parsed.float16_config.enabled) == (precision == "bf16", precision == "fp16")
    assert parsed.bfloat16_config.check_grad_overflow
    assert parsed.float16_config.loss_scale == 0


def test_offload_puts_the_optimizer_on_the_cpu() -> None:
    config = compose_pretrain(["deepspeed.offload_optimizer=true"])
    assert deepspeed_config(config, 2, cuda=False)["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert "offload_optimizer" not in deepspeed_config(compose_pretrain([]), 2, cuda=False)["zero_optimization"]


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match="precision=fp16 needs a GPU"):
        deepspeed_config(compose_pretrain(["precision=fp16"]), 1, cuda=False)
