"""Tiny runs of every modality, and batches for them that depend on nothing but the step."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from configs.modality_config import ModalityConfig
from configs.schema import PretrainConfig
from configs.signals import samples_of
from data_shards.batch import BOS, EOS, FRAME_STRIDE, PAD, RECEPTIVE_FIELD, UNK, MaskedBatch, TokenSpan
from data_shards.order.mixture import mixture_of
from data_shards.spans import noise_keys, several_masks
from pretrain.engine import distributed

TINY = [
    "demo=false", "model.layers=3", "model.width=32", "model.heads=2", "model.ffn=64", "teacher.layers=2",
    "vision.image_size=16", "vision.patch_size=4", "vision.mask.patches=10", "vision.mask.min_block=2",
    "vision.mask.max_block=16", "speech.max_seconds=0.5", "speech.conv_width=16", "speech.position_layers=2",
    "speech.position_kernel=3", "speech.position_groups=2", "speech.mask.length=3", "text.vocab_size=300",
    "text.max_tokens=16", "teacher.decay=0.9", "teacher.decay_end=0.99", "teacher.decay_steps=5", "optimizer.lr=0.01",
    "schedule.kind=cosine", "schedule.warmup=2", "schedule.hold=0", "schedule.steps=20", "train.steps=10",
    "deepspeed.persistence_threshold=100", "model.dropout=0", "model.attention_dropout=0",
    "model.drop_path=0",
]  # fmt: skip
_VISION = ["optimizer.betas=[0.9,0.999]", "optimizer.clip=3", "schedule.lr_end=1e-5"]
KINDS = ("vision", "speech", "text", "mixture")
SECOND = tuple(f"{kind} v2" for kind in KINDS)
"""The same in data2vec 2.0."""
_V2 = [
    "objective=v2", "masks.count=3", "masks.fraction=null", "masks.block=null", "decoder.layers=2",
    "decoder.width=null", "decoder.groups=2", "decoder.kernel=3", "decoder.dropout=0", "loss.cls=null",
]  # fmt: skip


def tiny(kind: str, size: int, micro: int) -> list[str]:
    """Overrides of a tiny run of a modality, or of a mixture of all three, without any dropout; " v2": in data2vec 2.0.

    Steps are of `size` samples, in the mixture half as many of speech; micro-batches of `micro`.
    """
    if kind in SECOND:
        first = tiny(kind.removesuffix(" v2"), size, micro)
        return [*(override for override in first if override != "objective=v1"), *_V2]
    if kind != "mixture":
        recipe = "demo" if kind == "vision" else f"demo_{kind}"
        own = _VISION if kind == "vision" else []
        return [f"recipe={recipe}", "objective=v1", *own, *TINY, f"batch.global={size}", f"batch.micro={micro}"]
    parts = {"vision": size, "speech": size // 2, "text": size}
    sizes = [f"mixture.{name}.{key}" for name, size in parts.items() for key in (f"global={size}", f"micro={micro}")]
    shards = [f"mixture.{name}.shards=none" for name in parts]
    return ["recipe=demo_mixture", *TINY, *sizes, *shards]


def micro_batches(config: PretrainConfig, step: int) -> list[MaskedBatch]:
    """This rank's part of a step's samples; for speech and text the micro-batches are of different sizes."""
    modality, _ = mixture_of(config).locate(step)
    part = config.for_modality(modality)
    generator = torch.Generator().manual_seed(step)
    match modality:
        case "vision":
            batch = _images(part, generator)
        case "speech":
            batch = _clips(part, generator)
        case "text":
            batch = _texts(part, generator)
    batch = _several(batch, part, step)
    own = torch.arange(len(batch))[distributed.rank() :: distributed.world()]
    return [batch.take(rows) for rows in own.split(part.batch.micro)]


def _several(batch: MaskedBatch, config: ModalityConfig, step: int) -> MaskedBatch:
    """The batch with the masks of data2vec 2.0, if the run is of it."""
    if config.masks is None:
        return batch
    ids, grid = batch.sample_ids.numpy(), config.vision.grid if config.modality == "vision" else 0
    masks = several_masks(config.seed, step, ids, batch.lengths.numpy(), config.masks, grid)
    return replace(
        batch,
        masks=torch.from_numpy(masks),
        noise_keys=torch.from_numpy(noise_keys(config.seed, step, ids, config.masks.count)),
        corrupted=None,
        most_masked=None,
    )


def _images(config: ModalityConfig, generator: torch.Generator) -> MaskedBatch:
    vision, count = config.vision, config.batch.global_
    shape = (count, 3, vision.image_size, vision.image_size)
    inputs = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    mask = torch.zeros(count, vision.tokens, dtype=torch.bool)
    for row in mask:  # as many masked patches as the mask may have, or a few less
        masked = vision.mask.patches - int(torch.randint(0, 3, (1,), generator=generator))
        row[torch.randperm(vision.tokens, generator=generator)[:masked]] = True
    lengths = torch.full((count,), vision.tokens)
    return MaskedBatch(
        modality="vision",
        inputs=inputs,
        lengths=lengths,
        sample_ids=torch.arange(count),
        color=torch.eye(3, 4).repeat(count, 1, 1),
        masks=mask[:, None],
    )


def _clips(config: ModalityConfig, generator: torch.Generator) -> MaskedBatch:
    count, longest = config.batch.global_, config.speech.longest
    lengths = torch.randint(6, longest + 1, (count,), generator=generator)
    noise = 2000 * torch.randn(count, samples_of(longest), generator=generator)
    mask = _some(count, longest, lengths, generator)
    scale = torch.tensor([[0.0, 1 / 2000]]).repeat(count, 1)
    return MaskedBatch(
        modality="speech",
        inputs=noise.to(torch.int16),
        lengths=lengths,
        sample_ids=torch.arange(count),
        scale=scale,
        masks=mask[:, None],
        span=TokenSpan(RECEPTIVE_FIELD, FRAME_STRIDE),
    )


def _texts(config: ModalityConfig, generator: torch.Generator) -> MaskedBatch:
    text, count = config.text, config.batch.global_
    lengths = torch.randint(4, text.max_tokens + 1, (count,), generator=generator)
    inputs = torch.randint(UNK + 1, text.vocab_size - 1, (count, text.max_tokens), generator=generator).int()
    place = torch.arange(text.max_tokens)
    inputs[:, 0] = BOS
    inputs[place == lengths[:, None] - 1] = EOS
    inputs[place >= lengths[:, None]] = PAD
    mask = _some(count, text.max_tokens, lengths, generator) & (inputs > UNK)
    mask[:, 1] = True
    corrupted = torch.where(mask, text.vocab_size - 1, inputs).int()
    return MaskedBatch(
        modality="text",
        inputs=inputs,
        lengths=lengths,
        sample_ids=torch.arange(count),
        corrupted=corrupted[:, None],
        masks=mask[:, None],
        span=TokenSpan(1, 1),
    )


def _some(count: int, longest: int, lengths: Tensor, generator: torch.Generator) -> Tensor:
    """bool [count, longest]: about half of the real positions, the first among them, never the last."""
    mask = torch.rand(count, longest, generator=generator) < 0.5
    mask[:, 0] = True
    return mask & (torch.arange(longest) < lengths[:, None] - 1)
