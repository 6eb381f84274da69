"""The estimate of memory, beside the tensors that models keep and the table of docs/memory.md."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from configs.compose import compose_pretrain
from configs.schema_running import DeepSpeedConfig
from models.data2vec import Data2Vec
from models.data2vec2 import make_objective
from pretrain.describing.memory import Memory, activation_bytes, state_bytes
from tests.integration.made_up import micro_batches

SIZES = [
    "demo=false",
    "model.width=128",
    "model.heads=4",
    "model.ffn=512",
    "model.layers=4",
    "batch.global=32",
    "batch.micro=32",
]
KINDS = {
    "vision": ["vision.image_size=112", "vision.patch_size=8", "vision.mask.max_block=196"],
    "speech": ["speech.max_seconds=3"],
    "text": ["text.max_tokens=160", "text.vocab_size=500"],
}


def kept_bytes(model: Data2Vec, batch) -> int:
    """Bytes of the distinct tensors that a forward pass keeps for its backward pass, beside the parameters."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages, alive = {}, []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no other takes its place
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(batch, torch.tensor(batch.counts.targets))
    return sum(storages.values())


@pytest.mark.parametrize("modality", KINDS)
@pytest.mark.parametrize(
    "more",
    [
        [],
        ["model.dropout=0.1", "model.attention_dropout=0.1"],
        ["precision=bf16"],
        ["objective=v2", "masks.count=3"],
        ["objective=v2", "masks.count=3", "precision=bf16"],
    ],
)
def test_activations_are_those_that_the_model_keeps(modality: str, more: list[str]) -> None:
    config = compose_pretrain([f"modality={modality}", *SIZES, *KINDS[modality], *more])
    model, bf16 = make_objective(config), config.precision == "bf16"
    (batch,) = micro_batches(config, 0)
    batch = batch.take(batch.lengths.argmax().repeat(32))  # all of the longest length
    estimate = activation_bytes(config.for_modality(modality), "bf16" if bf16 else "fp32", cuda=False)
    kept = kept_bytes(model.to(torch.bfloat16) if bf16 else model, batch)
    assert kept < 1.1 * estimate and estimate < 1.35 * kept


def test_recomputed_blocks_keep_only_their_inputs_beside_one_block() -> None:
    def estimate(*more: str) -> int:
        config = compose_pretrain(["recipe=vision_base_imagenet", "batch.micro=32", *more])
        return activation_bytes(config.for_modality("vision"), "bf16", cuda=True)

    assert estimate("model.activation_checkpointing=true") < estimate() / 5
    assert estimate("batch.micro=64") == 2 * estimate()


def test_micro_batches_by_tokens_hold_fewer_of_the_longest() -> None:
    def estimate(tokens: str) -> int:
        config = compose_pretrain(
            ["recipe=text_base_books_wikipedia", "batch.micro=128", f"batch.micro_tokens={tokens}"]
        )
        return activation_bytes(config.for_modality("text"), "bf16", cuda=True)

    assert estimate("8192") == 16 * estimate("512") and estimate("null") == 128 * estimate("512")


P, A, W = 1000, 800, 4


@pytest.mark.parametrize(
    ("stage", "precision", "expected"),
    [
        (0, "bf16", 2 * P + 2 * A + 12 * P + 4 * A + 2 * P),
        (0, "fp32", 4 * P + 4 * A + 8 * P + 4 * A + 4 * P),
        (1, "bf16", 2 * P + 2 * A + (12 * P + 4 * A) / W + 4 * P),
        (2, "bf16", 2 * P + 2 * A + (12 * P + 4 * A) / W + 4 * P / W),
        (2, "fp32", 4 * P + 4 * A + (12 * P + 4 * A) / W + 4 * P / W),
        (3, "bf16", (2 * P + 2 * A + 12 * P + 4 * A + 4 * P) / W),
        (3, "fp32", (4 * P + 4 * A + 8 * P + 4 * A + 4 * P) / W),
    ],
)
def test_states_are_those_of_the_documented_table(stage: int, precision, expected: float) -> None:
    assert state_bytes(P, A, W, precision, DeepSpeedConfig(stage=stage)) == expected
    if stage:
        offloaded = state_bytes(P, A, W, precision, DeepSpeedConfig(stage=stage, offload_optimizer=True))
        masters = 8 if (stage, precision) == (3, "fp32") else 12
        assert offloaded == expected - (masters * P + 4 * A) / W
    assert Memory(2, 3).total == 5
