"""Speed and memory of training steps of the published recipes: forward and backward, update, refresh; traces.

Batches come from the real loader once and are used again. A step of one micro-batch and a step of four are timed: their
difference is three micro-batches, and what is left of the shorter one is the update with all that a step does once.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

import pretrain.engine.teacher
from benchmarks.gpu.machine import first_line, free
from benchmarks.gpu.recording import Recorder
from configs.checks.run import check
from configs.compose import compose_pretrain
from configs.schema import PretrainConfig
from data_shards.batch import SampleBatch
from data_shards.loading.loader import open_loader
from models.data2vec2 import make_objective
from pretrain.describing.table import memory
from pretrain.engine.engine import Engine

PEAK = 989e12  # FLOP/s: dense bf16 of H100 and H200 SXM, NVIDIA's data sheet
FRAMES_PER_HOUR = 50 * 3600
MANY = 4
_B, _L = "vision_base_imagenet", "vision_large_imagenet_phase1"
_S, _T = "speech_base_librispeech", "text_base_books_wikipedia"
_COMPILE = "model.compile=true"
CASES: dict[str, list[str]] = {
    "images Base": [f"recipe={_B}"],
    "images Base, compiled": [f"recipe={_B}", _COMPILE],
    "images Large": [f"recipe={_L}", "batch.micro=128"],
    "images Large, compiled": [f"recipe={_L}", "batch.micro=128", _COMPILE],
    "speech Base": [f"recipe={_S}"],
    "text Base": [f"recipe={_T}"],
    "images Base v2": [f"recipe={_B}_v2"],
    "images Base v2, micro 64": [f"recipe={_B}_v2", "batch.micro=64"],
    "images Base v2, micro 64, compiled": [f"recipe={_B}_v2", "batch.micro=64", _COMPILE],
    "speech Base, compiled": [f"recipe={_S}", _COMPILE],
    "text Base, compiled": [f"recipe={_T}", _COMPILE],
    "images Base, micro 256": [f"recipe={_B}", "batch.micro=256"],
    "images Base, no dropped branches": [f"recipe={_B}", "model.drop_path=0"],
    "images Base, no dropped branches, compiled": [f"recipe={_B}", "model.drop_path=0", _COMPILE],
    "images Base, no attention dropout": [f"recipe={_B}", "model.attention_dropout=0"],
    "speech Base v2": [f"recipe={_S}_v2"],
    "text Base v2": [f"recipe={_T}_v2"],
    "images Base, ZeRO 0": [f"recipe={_B}", "deepspeed=zero0"],
    "images Base, ZeRO 2": [f"recipe={_B}", "deepspeed=zero2"],
    "images Base, ZeRO 3": [f"recipe={_B}", "deepspeed=zero3"],
    "images Base, fp16": [f"recipe={_B}", "precision=fp16"],
    "images Base, fp32": [f"recipe={_B}", "precision=fp32"],
    "images Large, recomputed": [f"recipe={_L}", "batch.micro=128", "model.activation_checkpointing=true"],
    "images Large, offload": [f"recipe={_L}", "batch.micro=128", "deepspeed.offload_optimizer=true"],
    "images Huge v2": ["recipe=vision_huge_imagenet_v2"],
    "speech Large": ["recipe=speech_large_librilight", "model.layer_drop=0"],
    "text Large": ["recipe=text_large"],
}
_TINY = [
    "model.layers=2", "model.width=32", "model.heads=2", "model.ffn=64", "teacher.layers=1", "precision=fp32",
    "batch.micro=2", "speech.conv_width=16", "batch.micro_tokens=1998",
]  # fmt: skip
_TINY_V2 = ["decoder.width=16", "decoder.layers=2", "masks.count=2"]
TINY_CASES = ("images Base", "speech Base", "text Base", "images Base v2")


def _config(given: list[str], folder: Path, tiny: bool) -> PretrainConfig:
    modality = next(override for override in given if override.startswith("recipe=")).split("=")[1].split("_")[0]
    more = _TINY if tiny else []
    samples = {"vision": 4096, "speech": 320, "text": 320}[modality]
    if tiny:
        more = [override for override in more if modality != "vision" or "tokens" not in override]
        more += _TINY_V2 if given[0].endswith("v2") else []
        samples = 32
    fixed = [f"data.shards={folder}/{modality}", "data.workers=0", "data=small", f"batch.global={samples}"]
    return compose_pretrain([*given, *fixed, *more, "run.dir=/nowhere", "batch.equal=samples", "data.lanes=4"])


def _batches(config: PretrainConfig) -> list[SampleBatch]:
    """MANY micro-batches of the loader; of speech and text a fourth of a step's, from all lengths."""
    if config.modalities == ("vision",):  # a step of 4096 images takes seconds to load
        config = replace(config, batch=replace(config.batch, global_=MANY * config.batch.micro))
    loader = open_loader(config, 0, 1)
    batches = next(loader.steps(0))
    loader.close()
    batches = batches[:: max(1, len(batches) // MANY)][:MANY]
    return [batches[i % len(batches)] for i in range(MANY)]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _milliseconds(engine: Engine, batches: list[SampleBatch], device: torch.device, repeats: int) -> float:
    """Median duration of a step."""
    taken = []
    for _ in range(repeats):
        _synchronize(device)
        start = time.perf_counter()
        engine.step(batches)
        _synchronize(device)
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken)


def measure(record: Recorder, folder: Path, device: torch.device, tiny: bool) -> None:
    """Record a row per case, and write the operators of a step of the first ones to OUT/operators.txt."""
    done = record.done()
    names = TINY_CASES if tiny else tuple(CASES)
    for name in [name for name in names if name not in done]:
        try:
            torch._dynamo.reset()
            _case(record, name, folder, device, tiny, name in list(CASES)[:9])
        except Exception as error:
            record.row(name, failed=first_line(error))
        free(device)


def _case(record: Recorder, name: str, folder: Path, device: torch.device, tiny: bool, profile: bool) -> None:
    config = _config(CASES[name], folder, tiny)
    check(config, 1)
    batches, cuda = _batches(config), device.type == "cuda"
    left_over = torch.cuda.memory_allocated() if cuda else 0  # of earlier cases: DeepSpeed's hooks keep some alive
    begin = time.perf_counter()
    engine = Engine(make_objective(config), config, device)
    started = time.perf_counter() - begin
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    engine.step(batches)
    engine.step(batches[:1])
    _synchronize(device)
    first = time.perf_counter() - begin
    repeats = 2 if tiny else 7
    one = _milliseconds(engine, batches[:1], device, repeats)
    many = _milliseconds(engine, batches, device, repeats)
    each = (many - one) / (MANY - 1)
    samples = sum(len(batch) for batch in batches) / MANY
    tokens = sum(int(batch.lengths.sum()) for batch in batches) / MANY
    work = sum(engine.model.flops(batch) for batch in batches) / MANY
    figures = {
        "samples_per_s": 1e3 * samples / each, "tokens_per_s": 1e3 * tokens / each, "micro_ms": each,
        "update_ms": one - each, "mfu": work / (each / 1e3) / PEAK, "samples_a_micro": samples,
        "start_s": started, "first_two_steps_s": first,
    }  # fmt: skip
    if config.modalities == ("speech",):
        figures["hours_of_audio_per_s"] = 1e3 * tokens / each / FRAMES_PER_HOUR
    if cuda:
        figures["peak_gib"] = (torch.cuda.max_memory_allocated() - left_over) / 2**30
    figures["estimate_gib"] = memory(config, engine).total / 2**30
    phases = _phases(engine, batches[:1], device) if cuda or tiny else {}
    record.row(name, **figures, **phases)
    if profile:
        _trace(record, name, engine, batches, cuda)


def _phases(engine: Engine, batches: list[SampleBatch], device: torch.device) -> dict[str, float]:
    """Milliseconds of the phases of a step, with a wait for the device around each: their sum is more than the step."""
    taken: dict[str, list[float]] = {}
    undo = []

    def watch(owner: object, function: str, name: str) -> None:
        original = getattr(owner, function)

        def timed(*arguments, **keywords):
            _synchronize(device)
            start = time.perf_counter()
            result = original(*arguments, **keywords)
            _synchronize(device)
            taken.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
            return result

        setattr(owner, function, timed)
        undo.append((owner, function, original))

    model = engine.model
    watch(model, "embed", "embed_ms")
    watch(model, "all_targets" if engine.config.objective == "v2" else "targets", "teacher_ms")
    watch(model, "outputs" if engine.config.objective == "v2" else "predictions", "student_ms")
    if engine.config.objective == "v2":
        watch(model, "hidden_predictions", "decoder_ms")
    watch(engine.deepspeed, "backward", "backward_ms")
    watch(engine.deepspeed, "step", "zero_and_adam_ms")
    watch(pretrain.engine.teacher, "update", "teacher_update_ms")
    watch(engine.partitions, "update_teacher_copy", "refresh_ms")
    for _ in range(4):
        engine.step(batches)
    for owner, function, original in undo:
        setattr(owner, function, original)
    calls = {name: len(values) // 4 or 1 for name, values in taken.items()}
    return {name: statistics.median(values) * calls[name] for name, values in taken.items()}


def _trace(record: Recorder, name: str, engine: Engine, batches: list[SampleBatch], cuda: bool) -> None:
    """Write the operators of a step of MANY micro-batches, by the time they take themselves."""
    with torch.profiler.profile() as profile:
        engine.step(batches)
    key = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    table = profile.key_averages().table(sort_by=key, row_limit=45, max_name_column_width=70)
    file = record.file.with_name("operators.txt")
    with file.open("a") as stream:
        stream.write(f"== {name}\n{table}\n")
