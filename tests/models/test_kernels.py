import sys
from types import ModuleType

import pytest
import torch

from models import kernels

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _forget_choices():
    for choice in (kernels.adam, kernels.torch_adam, kernels.layer_norm):
        choice.cache_clear()


def test_torch_runs_on_the_cpu_and_says_why():
    adam, norm = kernels.adam(CPU), kernels.layer_norm(CPU)
    assert (adam.cls, adam.arguments) == (torch.optim.AdamW, {"fused": True})
    assert norm.cls is kernels.LayerNorm
    assert str(adam) == "torch fused AdamW (ran on cpu; apex has no cpu kernels)"


def test_adam_falls_back_where_the_fused_kernel_does_not_run(monkeypatch):
    original = kernels._step

    def refuse(cls, arguments, device):
        if arguments:
            raise RuntimeError("no fused kernel")
        original(cls, arguments, device)

    monkeypatch.setattr(kernels, "_step", refuse)
    assert kernels.adam(CPU).arguments == {} and "no fused kernel" in kernels.adam(CPU).reason


def test_pypi_apex_is_named_an_impostor(monkeypatch):
    monkeypatch.setitem(sys.modules, "apex", ModuleType("apex"))  # a package without `optimizers`
    monkeypatch.setattr(kernels.importlib.metadata, "files", lambda name: [])
    with pytest.raises(RuntimeError, match="unrelated package"):
        kernels._apex("optimizers", torch.device("cuda"))


def test_layer_norm_of_bfloat16_parameters_computes_in_float32():
    norm = kernels.LayerNorm(64, eps=1e-6).bfloat16()
    x = torch.randn(3, 64) + 100  # a bfloat16 mean would be off by half a standard deviation
    expected = torch.nn.functional.layer_norm(x, (64,), eps=1e-6).bfloat16()
    assert torch.equal(norm(x), expected)
