"""Labelled images for probes."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from configs.schema import VisionConfig
from data_shards.image import centre_crop, image_bytes
from data_shards.index import load_index
from data_shards.reader import BadSample, Reader

log = logging.getLogger(__name__)


def _label(members: dict[str, bytes]) -> int:
    try:
        return int(members["cls"])
    except (KeyError, ValueError):
        raise ValueError("no class number (member .cls)") from None


def labelled_images(shards: str, vision: VisionConfig, limit: int) -> tuple[Tensor, Tensor]:
    """At most `limit` images and labels, evenly spread over the shards: uint8 [N, 3, S, S], int64 [N].

    Every process that calls this decodes all of them: in a run, each rank. Unreadable images are left out with a
    warning. Raises ValueError where a sample has no label, or none is readable.
    """
    index = load_index(shards)
    reader = Reader(index)
    count = min(limit, index.samples)
    images, labels = [], []
    for i in range(count):
        sample = i * index.samples // count
        try:
            members = reader.read(sample).members
            image = centre_crop(image_bytes(members), vision.image_size)
        except BadSample as error:
            log.warning("left out: %s", reader.report(sample, str(error)))
            continue
        try:
            labels.append(_label(members))
        except ValueError as error:
            raise ValueError(f"{shards!r}: {reader.report(sample, str(error))}; give shards with labels") from None
        images.append(image)
    reader.close()
    if not images:
        raise ValueError(f"{shards!r}: none of {count} images is readable")
    return torch.stack(images), torch.tensor(labels)
