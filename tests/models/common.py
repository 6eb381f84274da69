"""Small models and batches for the tests of `models`."""

import torch

from configs.schema import ModelConfig, PretrainConfig, TeacherConfig, VisionConfig, VisionMaskConfig
from data_shards.batch import MaskedBatch


def tiny_config(patches: int = 6, layers: int = 3, **model) -> PretrainConfig:
    """Width 32, three blocks, a 4 x 4 grid of which at most `patches` are masked."""
    return PretrainConfig(
        model=ModelConfig(layers=layers, width=32, heads=4, ffn=64, **model),
        vision=VisionConfig(image_size=16, patch_size=4, mask=VisionMaskConfig(patches=patches, max_block=16)),
        teacher=TeacherConfig(layers=2),
    )


def base_config(**model) -> PretrainConfig:
    """data2vec vision Base."""
    sizes = ModelConfig(layers=12, width=768, heads=12, ffn=3072, layer_scale=1e-4, **model)
    return PretrainConfig(model=sizes)


def random_batch(config: PretrainConfig, size: int = 4, seed: int = 0, masked: int | None = None) -> MaskedBatch:
    """Noise images with `masked` patches each (default: as many as are allowed)."""
    generator = torch.Generator().manual_seed(seed)
    vision = config.vision
    masked = vision.mask.patches if masked is None else masked
    order = torch.rand(size, vision.tokens, generator=generator).argsort(1)
    return MaskedBatch(
        modality="vision",
        inputs=torch.randint(0, 256, (size, 3, vision.image_size, vision.image_size), generator=generator).byte(),
        color=torch.eye(3, 4).repeat(size, 1, 1) + 0.05 * torch.randn(size, 3, 4, generator=generator),
        mask=order < masked,
        sample_ids=torch.arange(size),
    )


def randomise(module: torch.nn.Module, seed: int = 0, std: float = 0.2) -> None:
    """Overwrite every parameter with noise, so that none hides behind its initial 0 or 1e-4."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
