"""Kernels of LayerNorm and Adam, chosen once, by running them on the device in use, with the reason for the choice.

NVIDIA's apex is built from source. The package called `apex` on PyPI is an unrelated Pyramid toolkit. A half-built apex
can be imported but has no CUDA kernels, so only running a kernel shows that it works.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Kernel:
    """A class to construct, the keyword arguments that select its kernel, and the reason for the choice."""

    cls: type
    name: str
    reason: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


class LayerNorm(nn.LayerNorm):
    """LayerNorm computed in float32, also on a float32 residual stream; returns the parameters' dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., H] -> [..., H]."""
        if x.dtype == self.weight.dtype:
            return super().forward(x)  # torch's own kernels sum in float32
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(self.weight.dtype)


@cache
def layer_norm(device: torch.device) -> Kernel:
    """Return apex's LayerNorm (float32 in, the parameters' dtype out) if it runs on `device`, else torch's."""
    try:
        cls = _apex("normalization", device).MixedFusedLayerNorm
        x = torch.arange(16.0, device=device).view(2, 8)
        difference = (cls(8).to(device)(x) - F.layer_norm(x, (8,))).abs().max().item()
    except Exception as error:  # any error that stops apex from running is the reason to print
        return Kernel(LayerNorm, "torch LayerNorm", _because(error))
    if difference > 1e-3:
        return Kernel(LayerNorm, "torch LayerNorm", f"apex's differs from torch's by {difference:.1g}")
    return Kernel(cls, "apex MixedFusedLayerNorm", f"ran on {device.type}")


@cache
def adam(device: torch.device) -> Kernel:
    """Return apex's FusedAdam if it runs on `device`, else torch's AdamW."""
    try:
        cls = _apex("optimizers", device).FusedAdam
        arguments: dict[str, Any] = {"adam_w_mode": True}
        _step(cls, arguments, device)
        return Kernel(cls, "apex FusedAdam", f"ran on {device.type}", arguments)
    except Exception as error:
        return torch_adam(device, _because(error))


@cache
def torch_adam(device: torch.device, reason: str) -> Kernel:
    """Return torch's AdamW: fused if that runs on `device`, else tensor by tensor. reason: why apex's is not used."""
    try:
        _step(torch.optim.AdamW, {"fused": True}, device)
        return Kernel(torch.optim.AdamW, "torch fused AdamW", f"ran on {device.type}; {reason}", {"fused": True})
    except Exception as error:
        return Kernel(torch.optim.AdamW, "torch AdamW", f"{reason}; fused: {_because(error)}")


def _apex(submodule: str, device: torch.device) -> ModuleType:
    """Return `apex.SUBMODULE` of NVIDIA's apex. Raises an exception that says why it cannot be used."""
    if device.type != "cuda":
        raise RuntimeError(f"apex has no {device.type} kernels")
    try:
        return importlib.import_module(f"apex.{submodule}")
    except ImportError as error:
        if _is_impostor():
            raise RuntimeError("the installed `apex` is PyPI's unrelated package: uninstall it") from error
        raise


def _is_impostor() -> bool:
    """Return True if `apex` is installed and is not NVIDIA's, which ships `apex.normalization`."""
    try:
        files = importlib.metadata.files("apex") or []
    except importlib.metadata.PackageNotFoundError:
        return False
    return not any("normalization" in file.parts for file in files)


def _step(cls: type, arguments: dict[str, Any], device: torch.device) -> None:
    """Take one step on a tiny parameter. Raises RuntimeError unless it moved and stayed finite."""
    parameter = nn.Parameter(torch.ones(8, device=device))
    parameter.grad = torch.ones_like(parameter)
    cls([parameter], lr=0.1, **arguments).step()
    if not bool(((parameter < 1) & parameter.isfinite()).all()):
        raise RuntimeError(f"{cls.__name__} ran but did not step")


def _because(error: Exception) -> str:
    """Return the first line of the error's message, or its class if it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
