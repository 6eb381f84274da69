"""Frames of recordings, as the published feature encoder counts them."""

import numpy as np
import pytest

from configs.signals import CONV_KERNELS, CONV_STRIDES, FRAME_STRIDE, RECEPTIVE_FIELD, frames, samples_of


@pytest.mark.parametrize("samples", [0, 399, 400, 719, 720, 16_000, 250_000, 320_000])
def test_frames_are_those_of_the_convolutions_one_by_one(samples: int) -> None:
    left = samples
    for kernel, stride in zip(CONV_KERNELS, CONV_STRIDES, strict=True):
        left = max(0, (left - kernel) // stride + 1)
    assert frames(samples) == left


def test_the_receptive_field_and_the_stride_follow_from_the_convolutions() -> None:
    field, stride = 1, 1
    for kernel, step in zip(CONV_KERNELS, CONV_STRIDES, strict=True):
        field, stride = field + (kernel - 1) * stride, stride * step
    assert (field, stride) == (RECEPTIVE_FIELD, FRAME_STRIDE)


def test_the_fewest_samples_of_so_many_frames() -> None:
    for count in (1, 2, 49, 999):
        assert frames(samples_of(count)) == count == frames(samples_of(count) - 1) + 1
    assert samples_of(np.array([1, 2])).tolist() == [400, 720]
