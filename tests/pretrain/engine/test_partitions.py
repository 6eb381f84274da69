"""Fragments of parameters; real engines in every layout are in tests/integration."""

import pytest
import torch

from pretrain.engine.layout import Fragment
from pretrain.engine.partitions import assemble


def test_fragments_have_to_cover_each_parameter_exactly_once():
    shapes = {"a": torch.Size([2, 3])}
    whole = [(Fragment("a", 0, 0, 0, 4), torch.arange(4.0)), (Fragment("a", 0, 0, 4, 2), torch.tensor([4.0, 5.0]))]
    assert torch.equal(assemble(shapes, whole)["a"], torch.arange(6.0).view(2, 3))
    with pytest.raises(ValueError, match="do not cover a exactly once"):
        assemble(shapes, whole[:1])
