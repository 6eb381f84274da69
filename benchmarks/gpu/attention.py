"""Attention of every backend on the device against float64 on the CPU: outputs and gradients, and its speed.

Lengths are those of the recipes and lengths of 64 modulo 128, for which wrong gradients have been reported. The error
is the norm of the difference over the norm of the reference; NaN never passes.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.machine import seconds
from benchmarks.gpu.recording import Recorder
from models.layers.attention import ALIGNMENT, attend

BACKENDS = {
    "chosen": None,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
LENGTHS = (64, 192, 197, 320, 512, 749)
KINDS = ("none", "bias", "low bias", "padding", "bias and padding")


def _inputs(length: int, kind: str, heads: int) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Return q, k, v [3, B, N, h, d], bias [h, N, N] or None, lengths [B] or None, and a gradient [B, N, h, d].

    Rows of the bias begin at multiples of ALIGNMENT, as the model's do. `low bias` reaches down to -200.
    """
    generator = torch.Generator().manual_seed(length)
    qkv = torch.randn(3, 2, length, heads, 64, generator=generator, dtype=torch.float64)
    grad = torch.randn(2, length, heads, 64, generator=generator, dtype=torch.float64)
    bias = None
    if "bias" in kind:
        bias = torch.randn(heads, length, -(-length // ALIGNMENT) * ALIGNMENT, generator=generator, dtype=torch.float64)
        bias = -200 * bias.sigmoid() if kind.startswith("low") else bias
    lengths = torch.tensor([length, length // 2 + 3]) if "padding" in kind else None
    if lengths is not None:
        grad[1, int(lengths[1]) :] = 0  # rows of padding are never used
    return qkv, bias, lengths, grad


def _run(qkv: Tensor, bias: Tensor | None, lengths: Tensor | None, grad: Tensor) -> list[Tensor]:
    """Return output and gradients of q, k, v and bias, float64 on the CPU; the output without rows of padding."""
    leaves = [x.detach().clone().requires_grad_() for x in qkv]
    table = None if bias is None else bias.detach().clone().requires_grad_()
    out = attend(leaves[0], leaves[1], leaves[2], None if table is None else table[..., : qkv.shape[2]], lengths)
    out.backward(grad)
    results = [out.detach() * (grad != 0), *(x.grad for x in leaves), *([] if table is None else [table.grad])]
    return [result.double().cpu() for result in results if result is not None]


def _error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest relative error of all tensors; infinite for NaN."""
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        error = float((a - b).norm() / b.norm())
        worst = max(worst, error if error == error else float("inf"))
    return worst


def check(record: Recorder, device: torch.device, tiny: bool) -> None:
    """Record the largest error of each backend by dtype and kind of bias, with the length it occurred at."""
    lengths, heads = ((64,), 2) if tiny else (LENGTHS, 4)
    for kind in KINDS:
        cases = {length: _inputs(length, kind, heads) for length in lengths}
        expected = {length: _run(*case) for length, case in cases.items()}
        for name, backend in BACKENDS.items():
            for dtype in (torch.bfloat16, torch.float16, torch.float32):
                worst, where, reason = 0.0, 0, ""
                for length, (qkv, bias, real, grad) in cases.items():
                    moved = [None if x is None else x.to(device) for x in (real,)]
                    floats = [None if x is None else x.to(device, dtype) for x in (qkv, bias, grad)]
                    try:
                        with nullcontext() if backend is None else sdpa_kernel(backend):
                            found = _run(floats[0], floats[1], moved[0], floats[2])  # type: ignore[arg-type]
                        error = _error(found, expected[length])
                    except RuntimeError as failure:
                        reason = str(failure).splitlines()[0][:80]
                        continue
                    if error >= worst:
                        worst, where = error, length
                shown = {"refused": reason} if reason else {}
                record.row(f"{kind}, {name}, {str(dtype)[6:]}", error=worst, at_length=where, **shown)


def speed(record: Recorder, device: torch.device, tiny: bool) -> None:
    """Record the milliseconds of forward and backward of each backend at the shapes of the Base recipes."""
    shapes = {"vision": (128, 197), "speech": (16, 749), "text": (16, 512)}
    for modality, (batch, length) in list(shapes.items())[: 1 if tiny else None]:
        batch = 2 if tiny else batch
        for kind, dropout in (
            *((kind, 0.0) for kind in KINDS if kind != "low bias"),
            ("none", 0.1),
            ("bias", 0.125),
            ("bias", 0.05),
        ):
            qkv = torch.randn(3, batch, length, 12, 64, device=device, dtype=torch.bfloat16, requires_grad=True)
            width = -(-length // ALIGNMENT) * ALIGNMENT
            table = torch.randn(12, length, width, device=device, dtype=torch.bfloat16, requires_grad=True)
            bias = table[..., :length] if "bias" in kind else None
            real = torch.full((batch,), length - 5, device=device) if "padding" in kind else None
            grad = torch.randn(batch, length, 12, 64, device=device, dtype=torch.bfloat16)
            figures: dict[str, float | str] = {}
            for name, backend in BACKENDS.items():

                def both(backend=backend, qkv=qkv, bias=bias, real=real, grad=grad, dropout=dropout) -> None:
                    with nullcontext() if backend is None else sdpa_kernel(backend):
                        attend(qkv[0], qkv[1], qkv[2], bias, real, dropout).backward(grad, retain_graph=False)

                try:
                    figures[name] = 1e3 * seconds(both, device, 2 if tiny else 10)
                except RuntimeError as failure:
                    figures[name] = "refused: " + str(failure).splitlines()[0][:40]
            record.row(f"{modality} B {batch} N {length}, {kind}, dropout {dropout}, ms", **figures)
