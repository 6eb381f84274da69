"""Small models and batches for the tests of `models`."""

from collections.abc import Sequence

import numpy as np
import torch

from configs.published import Objective
from configs.schema import PretrainConfig
from configs.schema_modalities import Modality, SpeechConfig, TextConfig, VisionConfig, VisionMaskConfig
from configs.schema_objective import DecoderConfig, MasksConfig, TeacherConfig
from configs.schema_training import ModelConfig
from configs.signals import samples_of
from data_shards.batch import BOS, EOS, FRAME_STRIDE, PAD, RECEPTIVE_FIELD, MaskedBatch, TokenSpan
from data_shards.spans import noise_keys, several_masks

MODALITIES: tuple[Modality, ...] = ("vision", "speech", "text")
LENGTHS = {"speech": (9, 14, 12, 11), "text": (10, 16, 7, 13)}
"""Real tokens of the samples of a batch, where they differ."""


def tiny_config(
    patches: int = 6,
    layers: int = 3,
    modality: Modality | tuple[Modality, ...] = "vision",
    objective: Objective = "v1",
    **model,
) -> PretrainConfig:
    """Width 32, three blocks, K = 2; a 4 x 4 grid of which at most `patches` are masked, 16 channels, 50 types.

    v2: three masks of each sample.
    """
    several = {"masks": MasksConfig(count=3), "decoder": DecoderConfig(layers=3, groups=4)} if objective == "v2" else {}
    return PretrainConfig(
        objective=objective,
        **several,
        modality=modality,
        model=ModelConfig(layers=layers, width=32, heads=4, ffn=64, **model),
        vision=VisionConfig(image_size=16, patch_size=4, mask=VisionMaskConfig(patches=patches, max_block=16)),
        speech=SpeechConfig(max_seconds=0.4, conv_width=16, position_layers=3, position_kernel=5, position_groups=4),
        text=TextConfig(vocab_size=50, max_tokens=24),
        teacher=TeacherConfig(layers=2),
    )


SPANS = {"vision": None, "speech": TokenSpan(RECEPTIVE_FIELD, FRAME_STRIDE), "text": TokenSpan(1, 1)}


def base_config(modality: Modality = "vision", **model) -> PretrainConfig:
    """data2vec Base."""
    sizes = ModelConfig(layers=12, width=768, heads=12, ffn=3072, layer_scale=1e-4, **model)
    return PretrainConfig(modality=modality, model=sizes)


def random_batch(
    config: PretrainConfig,
    size: int = 4,
    seed: int = 0,
    masked: int | None = None,
    lengths: Sequence[int] | None = None,
    modality: Modality | None = None,
) -> MaskedBatch:
    """Noise of which `masked` tokens a sample are masked (default: as many as images allow; for others a third).

    v2: the masks that the configuration asks for, drawn as loaders draw them.
    """
    generator = torch.Generator().manual_seed(seed)
    modality = modality or config.modalities[0]
    if modality == "vision":
        lengths = [config.vision.tokens] * size
    lengths = torch.tensor((LENGTHS[modality] * size)[:size] if lengths is None else lengths)
    masked = masked or (config.vision.mask.patches if modality == "vision" else max(1, int(lengths.min()) // 3))
    noise = torch.rand(len(lengths), int(lengths.max()), generator=generator)
    noise = noise.masked_fill(torch.arange(int(lengths.max())) >= lengths[:, None], 2.0)
    mask = noise.argsort(1).argsort(1) < masked
    extra = {"masks": mask[:, None]}
    inputs = {"vision": _images, "speech": _clips, "text": _texts}[modality](config, lengths, mask, generator)
    if own := config.for_modality(modality).masks:
        ids, grid = np.arange(len(lengths)), config.vision.grid if modality == "vision" else 0
        masks = several_masks(seed, 0, ids, lengths.numpy(), own, grid)
        extra = {
            "masks": torch.from_numpy(masks),
            "noise_keys": torch.from_numpy(noise_keys(seed, 0, ids, own.count)),
        }
        inputs.pop("corrupted", None)
    return MaskedBatch(
        modality=modality,
        lengths=lengths,
        sample_ids=torch.arange(len(lengths)),
        **extra,
        span=SPANS[modality],
        **inputs,
    )


def _images(config: PretrainConfig, lengths: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> dict:
    side, size = config.vision.image_size, len(lengths)
    images = torch.randint(0, 256, (size, 3, side, side), generator=generator).byte()
    return {"inputs": images, "color": torch.eye(3, 4) + 0.05 * torch.randn(size, 3, 4, generator=generator)}


def _clips(config: PretrainConfig, lengths: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> dict:
    """Noise behind a clip's end too."""
    shape = (len(lengths), samples_of(int(lengths.max())))
    clips = torch.randint(-3000, 3000, shape, generator=generator).short()
    return {"inputs": clips, "scale": torch.tensor([[20.0, 1 / 1700]]).repeat(len(lengths), 1)}


def _texts(config: PretrainConfig, lengths: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> dict:
    ids = torch.randint(4, config.text.vocab_size - 1, mask.shape, generator=generator).int()
    ids[:, 0] = BOS
    ids[torch.arange(len(lengths)), lengths - 1] = EOS
    ids[torch.arange(mask.shape[1]) >= lengths[:, None]] = PAD
    return {"inputs": ids, "corrupted": ids.masked_fill(mask, config.text.vocab_size - 1)[:, None]}


def randomise(module: torch.nn.Module, seed: int = 0, std: float = 0.2) -> None:
    """Overwrite every parameter with noise, so that none hides behind its initial 0 or 1e-4."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
