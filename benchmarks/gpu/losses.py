"""Losses of a few steps on the device, in each precision, ZeRO stage and with compile, beside fp32 on the CPU.

Every case starts from the same weights and sees the same batches, without dropout. The reference is written by a
process of its own that sees no GPU: `reference`.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import torch

from benchmarks.gpu.machine import first_line, free
from benchmarks.gpu.recording import Recorder
from configs.checks.run import check
from configs.compose import compose_pretrain
from configs.schema_modalities import MODALITIES
from data_shards.batch import SampleBatch
from data_shards.loading.loader import open_loader
from models.data2vec2 import make_objective
from pretrain.engine.engine import Engine

STEPS = 8
KINDS = (*MODALITIES, *(f"{modality} v2" for modality in MODALITIES))
_RECIPES = {"vision": "vision_base_imagenet", "speech": "speech_base_librispeech", "text": "text_base_books_wikipedia"}
_SIZES = ["model.layers=4", "model.width=256", "model.heads=4", "model.ffn=1024", "teacher.layers=2",
          "speech.conv_width=128", "speech.max_seconds=6"]  # fmt: skip
_TINY = ["model.layers=2", "model.width=32", "model.heads=2", "model.ffn=64", "teacher.layers=1",
         "speech.conv_width=16", "speech.max_seconds=2"]  # fmt: skip
_TINY_DECODER = ["decoder.width=16", "decoder.layers=2", "masks.count=2"]
_CASES: dict[str, list[str]] = {
    "fp32": [],
    "bf16": ["precision=bf16"],
    "fp16": ["precision=fp16"],
    "bf16, ZeRO 0": ["precision=bf16", "deepspeed=zero0"],
    "bf16, ZeRO 2": ["precision=bf16", "deepspeed=zero2"],
    "bf16, ZeRO 3": ["precision=bf16", "deepspeed=zero3"],
    "fp32, ZeRO 3": ["deepspeed=zero3"],
    "bf16, offload": ["precision=bf16", "deepspeed.offload_optimizer=true"],
    "fp16, ZeRO 3, offload": ["precision=fp16", "deepspeed=zero3", "deepspeed.offload_optimizer=true"],
    "bf16, recomputed": ["precision=bf16", "model.activation_checkpointing=true"],
    "fp32, compiled": ["model.compile=true"],
    "bf16, compiled": ["precision=bf16", "model.compile=true"],
}
_EVERY_KIND = ("fp32", "bf16", "fp16")
_TEXT_TOO = ("bf16, ZeRO 3", "fp32, compiled")


def cases(tiny: bool) -> list[tuple[str, str]]:
    """(kind, case), most important first: images see every case, the other kinds the main ones; compiled last."""
    first = [(kind, case) for case in _EVERY_KIND for kind in KINDS]
    pairs = [*first, *(("vision", case) for case in _CASES), *(("text", case) for case in _TEXT_TOO)]
    pairs = list(dict.fromkeys(pairs))
    pairs = sorted(pairs, key=lambda pair: "compiled" in pair[1])
    return (
        [(kind, case) for kind, case in pairs if case == "fp32" or (kind, case[:4]) == ("vision", "bf16")]
        if tiny
        else pairs
    )


def overrides(kind: str, case: str, folder: Path, tiny: bool) -> list[str]:
    """Return the overrides of a case."""
    modality, second = kind.removesuffix(" v2"), kind.endswith("v2")
    samples = 4 if tiny or second else 8
    given = [
        f"recipe={_RECIPES[modality]}{'_v2' if second else ''}", *(_TINY if tiny else _SIZES), "precision=fp32",
        f"data.shards={folder}/{modality}", "data.workers=0", "data=small", "batch.equal=samples",
        f"batch.global={samples}", f"batch.micro={samples // 2}", "model.dropout=0", "model.attention_dropout=0",
        "model.drop_path=0", "model.layer_drop=0", "data.lanes=2", "schedule.kind=constant",
        "schedule.warmup=0", "schedule.hold=0",
        f"schedule.steps={STEPS}", f"train.steps={STEPS}", "optimizer.lr=2e-4", "run.dir=/nowhere",
    ]  # fmt: skip
    given += ["decoder.dropout=0", *(_TINY_DECODER if tiny else [])] if second else []
    return [*given, *_CASES[case]]


def _steps(kind: str, case: str, folder: Path, device: torch.device, tiny: bool) -> dict[str, list[float]]:
    """Return losses and gradient norms of STEPS steps on the batches of `folder`."""
    config = compose_pretrain(overrides(kind, case, folder, tiny))
    check(config, 1)
    engine = Engine(make_objective(config), config, device)
    losses, norms = [], []
    for batches in torch.load(folder / f"{kind}.pt", weights_only=False):
        result = engine.step(batches)
        losses.append(result.loss)
        norms.append(result.grad_norm)
    if "fp32" in case:
        return {"loss": losses, "norm": norms}
    return {"loss": losses, "norm": norms, "skipped": [float(engine.skipped)]}


def reference(folder: Path, device: torch.device, tiny: bool) -> None:
    """Write the batches and the fp32 losses of every kind to FOLDER/KIND.pt and .json."""
    for kind in KINDS:
        config = compose_pretrain(overrides(kind, "fp32", folder, tiny))
        loader = open_loader(config, 0, 1)
        found: list[list[SampleBatch]] = [next(steps) for steps in [loader.steps(0)] for _ in range(STEPS)]
        loader.close()
        torch.save(found, folder / f"{kind}.pt")
        result = json.dumps(_steps(kind, "fp32", folder, device, tiny))
        (folder / f"{kind}.json.part").write_text(result)
        shutil.move(folder / f"{kind}.json.part", folder / f"{kind}.json")


def _expected(folder: Path, kind: str, patience_s: float) -> dict[str, list[float]]:
    file, end = folder / f"{kind}.json", time.monotonic() + patience_s
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.5)
    return json.loads(file.read_text())


def compare(record: Recorder, folder: Path, device: torch.device, tiny: bool) -> None:
    """Record the largest relative difference of loss and gradient norm of each case."""
    done = record.done()
    for kind, case in cases(tiny):
        name = f"{kind}: {case}"
        if name in done:
            continue
        start = time.perf_counter()
        try:
            expected = _expected(folder, kind, 60)
            torch._dynamo.reset()
            found = _steps(kind, case, folder, device, tiny)
        except Exception as error:  # a row of its own: the other cases go on
            record.row(name, failed=first_line(error))
            continue
        finally:
            free(device)
        figures = {
            key: max(abs(a - b) / abs(b) for a, b in zip(found[key], expected[key], strict=True))
            for key in ("loss", "norm")
        }
        figures |= {f"first_{key}": abs(found[key][0] / expected[key][0] - 1) for key in ("loss", "norm")}
        last = {"last_loss": found["loss"][-1], "expected": expected["loss"][-1]}
        record.row(name, **figures, **last, skipped=found.get("skipped", [0.0])[0], seconds=time.perf_counter() - start)
