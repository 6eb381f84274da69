"""Images: decoding, the published augmentation, and the transform for evaluation.

The published order is colour jitter, flip, random resized crop. The jitter (brightness, contrast about the mean grey of
the whole image, saturation, in random order) is composed to one affine map of RGB and shipped with the image: the model
applies it on the device. It commutes with flip, crop and resize. The published code also rounds and clips to 8 bits
after each operation. This is left out here.

Differences from the same steps by Pillow, in grey levels of 0 to 255: crop, resize and flip at most 2 in every pixel; a
large JPEG decoded at a fraction of its size at most 1 on average; the jitter at most 4 if Pillow clips nothing.
"""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
import torch
from torch import Tensor
from torch.nn import functional as F

from configs.modality_config import ModalityConfig
from configs.schema_modalities import VisionConfig
from data_shards.batch import MaskedBatch, SampleBatch
from data_shards.randomness import Epochs, Stream, uniforms
from data_shards.request import Neighbours
from data_shards.shards.bad_sample import find_member
from data_shards.shards.tar import Data, Members
from data_shards.spans import noise_keys, several_masks
from data_shards.vision.decoding import (
    DEFAULTS,
    check_pixels,
    check_scans,
    decode,
    decode_other,
    jpeg_orientation,
    jpeg_size,
    transposes,
    turned,
)
from data_shards.vision.formats import IMAGE_EXTENSIONS
from data_shards.vision.masks import block_masks

_TRIES = 10  # of a random crop, as torchvision
CROP_DRAWS = _TRIES * 4
"""Uniform numbers of a crop: area, aspect, top and left of every try."""
JITTER_DRAWS = 4
"""Uniform numbers of a colour jitter: brightness, contrast, saturation and their order."""

_COLUMNS = 3 << 16  # values of a row that are summed up at once
_ASPECT = 2  # sides of the part of an image that is resized for evaluation

_DCT_MARGIN = 1.5
# Decoding at 1/2 before the resize changes a 224-pixel image by 3.6 grey levels rms at margin 1.1, by 2.0 at 1.6.

_GREY = np.array([0.299, 0.587, 0.114])  # ITU-R 601-2 luma, as Pillow
_ORDERS = np.array(list(permutations(range(3))))  # 0 brightness, 1 contrast, 2 saturation


class Box(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def scaled(self, y: float, x: float) -> Box:
        """Return the box in an image that was decoded at a fraction of its size."""
        return Box(int(self.top * y), int(self.left * x), max(1, int(self.height * y)), max(1, int(self.width * x)))


def _decode_crop(data: Data, draws: np.ndarray, vision: VisionConfig) -> tuple[np.ndarray, Box]:
    """Decode an image and turn it; return it with the random crop's box in it.

    A JPEG that is much larger than needed is decoded at 1/2, 1/4 or 1/8 of its size.
    """
    try:
        size = jpeg_size(data)
        check_pixels(*size, vision.max_pixels)
        check_scans(data)
        orientation = jpeg_orientation(data) if vision.exif_orientation else 1
        height, width = size[::-1] if transposes(orientation) else size
        box = crop_box(height, width, draws, vision)
        side = _DCT_MARGIN * vision.image_size
        least = math.ceil(side * height / box.height), math.ceil(side * width / box.width)
        least = least[::-1] if transposes(orientation) else least
        image = simplejpeg.decode_jpeg(data, min_height=least[0], min_width=least[1], min_factor=2)
    except ValueError:  # no JPEG, CMYK, or damaged
        image = decode_other(data, vision)
        return image, crop_box(image.shape[0], image.shape[1], draws, vision)
    image = turned(image, orientation)
    return image, box.scaled(image.shape[0] / height, image.shape[1] / width)


def crop_box(height: int, width: int, draws: np.ndarray, vision: VisionConfig) -> Box:
    """Return the box of torchvision's RandomResizedCrop.

    Area and log aspect ratio are uniform; after ten failures the crop is central.
    """
    ratio = np.log(vision.crop_ratio)
    low, high = vision.crop_scale
    for u_area, u_ratio, u_top, u_left in draws.reshape(_TRIES, 4).tolist():
        area = height * width * (low + u_area * (high - low))
        aspect = math.exp(ratio[0] + u_ratio * (ratio[1] - ratio[0]))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(u_top * (height - h + 1)), int(u_left * (width - w + 1)), h, w)
    aspect = min(max(width / height, vision.crop_ratio[0]), vision.crop_ratio[1])
    w, h = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def _mean_color(image: np.ndarray) -> np.ndarray:
    """Return the mean RGB in [0, 1], float64 [3], of uint8 [H, W, 3]."""
    height, width, _ = image.shape
    lines, total = image.reshape(height, width * 3), np.zeros(3, np.int64)
    # 257 lines of 255 just fit 16 bits. Sums of 16 bits take a third of the time of sums of 32.
    for top in range(0, height, 257):
        for left in range(0, width * 3, _COLUMNS):
            block = lines[top : top + 257, left : left + _COLUMNS].sum(0, dtype=np.uint16)
            total += block.reshape(-1, 3).sum(0, dtype=np.int64)
    return total / (255.0 * height * width)


def color_jitter(means: np.ndarray, draws: np.ndarray, strength: float) -> np.ndarray:
    """Return ColorJitter(strength, strength, strength) as affine maps, float32 [B, 3, 4], of RGB in [0, 1].

    `means` [B, 3]: mean RGB of each image; `draws` [B, 4]: three factors and the order of the operations.
    Brightness f: f x. Contrast f: f x + (1 - f) grey, grey the mean of the whole image before this operation.
    Saturation f: f x + (1 - f) grey of each pixel. f is uniform in [1 - strength, 1 + strength].
    """
    factors = 1 + strength * (2 * draws[:, :3] - 1)
    orders = _ORDERS[(draws[:, 3] * len(_ORDERS)).astype(int)]
    matrix, offset = np.tile(np.eye(3), (len(draws), 1, 1)), np.zeros((len(draws), 3))
    for operation in orders.T:
        f = np.take_along_axis(factors, operation[:, None], axis=1)
        grey = (np.einsum("bij,bj->bi", matrix, means) + offset) @ _GREY
        mixed = ((1 - f) * (operation == 2)[:, None])[
            :, :, None
        ] * _GREY  # every output channel gets a share of the grey
        matrix, offset = (
            f[:, :, None] * matrix + mixed @ matrix,
            f * offset + (mixed @ offset[:, :, None])[:, :, 0] + (1 - f) * (grey * (operation == 1))[:, None],
        )
    return np.concatenate([matrix, offset[:, :, None]], axis=2).astype(np.float32)


def _resized(image: np.ndarray, height: int, width: int) -> Tensor:
    """uint8 [H, W, 3] -> uint8 [3, height, width], bicubic with antialiasing (Pillow's filter, within rounding).

    The channels of a pixel stay side by side. So resizing takes three quarters of the time, and stacking a tenth.
    """
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    if pixels.shape[2:] == (height, width):
        return pixels[0]
    return F.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)[0]


def augment(data: Data, draws: np.ndarray, vision: VisionConfig) -> tuple[Tensor, np.ndarray]:
    """Return the random crop, flipped or not, uint8 [3, S, S], and the whole image's mean RGB, float64 [3].

    The jitter needs the mean.

    `draws` float64 [CROP_DRAWS + 1] in [0, 1). Raises BadSample as `decode` does.
    """
    image, box = _decode_crop(data, draws[:CROP_DRAWS], vision)
    crop = image[box.top : box.top + box.height, box.left : box.left + box.width]
    pixels = _resized(crop, vision.image_size, vision.image_size)
    return (pixels.flip(-1) if draws[CROP_DRAWS] < vision.flip else pixels), _mean_color(image)


def _middle(image: np.ndarray) -> np.ndarray:
    """Return the middle of an image that is more than `_ASPECT` times as long as it is wide, else the image.

    The square is taken from it. A thin image, resized as a whole, would take memory without bound: 65000 x 2 pixels
    become 8 million x 256.
    """
    height, width = image.shape[:2]
    most = _ASPECT * min(height, width)
    top, left = max(0, height - most) // 2, max(0, width - most) // 2
    return np.ascontiguousarray(image[top : top + most, left : left + most])


def centre_crop(data: Data, size: int, vision: VisionConfig = DEFAULTS) -> Tensor:
    """Return the central square for evaluation, uint8 [3, size, size]; the short side is first 256 / 224 of `size`.

    A `size` of up to 64 pixels gets no such margin, so that a 28-pixel image stays as it is.
    Raises BadSample as `decode` does.
    """
    image = _middle(decode(data, vision))
    height, width = image.shape[:2]
    short = size if size <= 64 else round(size * 256 / 224)
    scale = short / min(height, width)
    pixels = _resized(image, max(short, int(height * scale)), max(short, int(width * scale)))
    top, left = round((pixels.shape[1] - size) / 2), round((pixels.shape[2] - size) / 2)
    return pixels[:, top : top + size, left : left + size].contiguous()


Loaded = tuple[Tensor, np.ndarray]
"""Pixels uint8 [3, S, S] and the mean RGB of the whole image, float64 [3]."""


class Images:
    """Images of a run: members of a sample -> augmented pixels -> masked batch."""

    draws = CROP_DRAWS + 1
    """Uniform numbers that loading takes: those of the crop, and the flip."""

    def __init__(self, config: ModalityConfig) -> None:
        self.vision, self.seed, self.masks = config.vision, config.seed, config.masks

    def load(self, members: Members, draws: np.ndarray, limit: int) -> Loaded:
        """Decode and augment (see `augment`); images have no `limit`. Raises BadSample if none can be decoded."""
        return augment(find_member(members, IMAGE_EXTENSIONS, "image"), draws, self.vision)

    def load_whole(self, members: Members) -> Loaded:
        """Decode the central square, for evaluation. Raises BadSample as `load`."""
        return centre_crop(
            find_member(members, IMAGE_EXTENSIONS, "image"), self.vision.image_size, self.vision
        ), np.zeros(3)

    def masked(self, epochs: Epochs, samples: np.ndarray, loaded: list[Loaded], _: Neighbours | None) -> MaskedBatch:
        """Return the batch of these samples, int64 [B], with their masks."""
        fields = self._fields(samples, loaded, self._jitter(epochs, samples, loaded))
        if self.masks is None:
            masks = block_masks(self.seed, epochs, samples, self.vision)[:, None]
            return MaskedBatch(**fields, masks=torch.from_numpy(masks))
        sizes = np.full(len(samples), self.vision.tokens)
        masks = several_masks(self.seed, epochs, samples, sizes, self.masks, self.vision.grid)
        noise = noise_keys(self.seed, epochs, samples, self.masks.count)
        return MaskedBatch(**fields, masks=torch.from_numpy(masks), noise_keys=torch.from_numpy(noise))

    def unmasked(self, samples: np.ndarray, loaded: list[Loaded], epochs: Epochs | None = None) -> SampleBatch:
        """Return the batch of these samples, int64 [B]. epochs: jitter the colours; None: leave them as they are."""
        unchanged = np.tile(np.eye(3, 4, dtype=np.float32), (len(samples), 1, 1))
        color = unchanged if epochs is None else self._jitter(epochs, samples, loaded)
        return SampleBatch(**self._fields(samples, loaded, color))

    def _jitter(self, epochs: Epochs, samples: np.ndarray, loaded: list[Loaded]) -> np.ndarray:
        """Return a colour jitter drawn for each sample, float32 [B, 3, 4]."""
        draws = uniforms(self.seed, epochs, samples, Stream.JITTER, JITTER_DRAWS)
        return color_jitter(np.stack([mean for _, mean in loaded]), draws, self.vision.jitter)

    def _fields(self, samples: np.ndarray, loaded: list[Loaded], color: np.ndarray) -> dict[str, Any]:
        # Stacked with the channels last, as resizing leaves them.
        images = torch.stack([pixels.permute(1, 2, 0) for pixels, _ in loaded])
        return {
            "modality": "vision",
            "inputs": images.permute(0, 3, 1, 2),
            "lengths": torch.full((len(samples),), self.vision.tokens),
            "sample_ids": torch.from_numpy(samples),
            "color": torch.from_numpy(color),
        }
