"""Across order and loading. What a resume needs of memory."""

from pathlib import Path

import pytest

from benchmarks.order import last_step, megabytes_of, synthetic_index


@pytest.mark.parametrize(("modality", "most"), [("vision", 12), ("speech", 20)])
def test_the_last_step_of_an_epoch_needs_little_memory(tmp_path, modality, most):
    """10 million samples: a few bytes per chunk, and for recordings a window's lengths, not those of all samples."""
    index = synthetic_index(10_000_000, Path(tmp_path))
    assert len(last_step(index, modality)) == 32
    assert megabytes_of(index, modality) < most
