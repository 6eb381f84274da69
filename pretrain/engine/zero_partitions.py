"""DeepSpeed's layouts of parameters: the only file that touches its private attributes.

Tested with the DeepSpeed versions of `TESTED_VERSIONS`. `partitions()` returns a `Partitions` for any stage.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from torch import Tensor, nn
from torch import distributed as dist

from models.objective import Tracked
from pretrain.engine.gradients import not_finite, quick_norm
from pretrain.engine.layout import Fragment
from pretrain.engine.partitions import Partitions

TESTED_VERSIONS = ("0.19.8",)
_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""Attributes of DeepSpeed's loss scalers that a checkpoint keeps."""


class _ZeroPartitions(Partitions):
    """The attributes that DeepSpeed's optimizer wrappers of all stages share."""

    def __init__(self, engine: Any, names: dict[nn.Parameter, str], shapes: dict[str, torch.Size]) -> None:
        super().__init__(engine.basic_optimizer, shapes)
        self._optimizer = engine.optimizer
        self._names = names
        if hasattr(engine.optimizer, "get_grad_norm_direct"):  # ZeRO 1 to 3, except ZeRO 1 in bf16
            engine.optimizer.get_grad_norm_direct = quick_norm(engine.optimizer.get_grad_norm_direct)

    @property
    def grad_norm(self) -> Tensor | float:
        """Norm of the gradient that is about to be applied, before clipping.

        ZeRO knows it when it calls the base optimizer, DeepSpeed's engine only afterwards.
        """
        return self._optimizer._global_grad_norm

    @property
    def loss_scale(self) -> dict[str, Any]:
        """State of fp16's dynamic loss scale; empty in other precisions."""
        scaler = self._scaler()
        return {key: getattr(scaler, key) for key in _SCALE if hasattr(scaler, key)}

    @loss_scale.setter
    def loss_scale(self, saved: dict[str, Any]) -> None:
        for key in self.loss_scale.keys() & saved.keys():
            setattr(self._scaler(), key, saved[key])

    def _scaler(self) -> Any:
        return getattr(self._optimizer, "loss_scaler", None) or getattr(self._optimizer, "loss_scale_config", None)


class Stage0(_ZeroPartitions):
    """No ZeRO: every rank holds everything, one master per parameter."""

    sharded = False

    def __init__(self, engine: Any, names: dict[nn.Parameter, str], tracked: list[Tracked]) -> None:
        super().__init__(engine, names, {names[p]: p.shape for p in names})
        wrapper = engine.optimizer
        if hasattr(wrapper, "fp16_groups"):  # bf16 and fp16: fp32 masters beside the parameters
            parameters = [p for group in wrapper.fp16_groups for p in group]
            self.masters = [master for group in wrapper.fp32_groups for master in group]
        else:
            parameters = [p for group in wrapper.param_groups for p in group["params"]]
            self.masters = parameters
        self._weights = parameters
        self.groups = [i for i, group in enumerate(self._base.param_groups) for _ in group["params"]]
        self.fragments = [Fragment(names[p], i, 0, 0, p.numel()) for i, p in enumerate(parameters)]
        frozen = {t.student: t.teacher for t in tracked}
        self._copies = [frozen.get(p) for p in parameters]

    @property
    def grad_norm(self) -> Tensor | float:
        # This wrapper reports the norm of the gradient times the loss scale.
        return super().grad_norm / self.loss_scale.get("cur_scale", 1.0)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(fragment.name for fragment in self.fragments)

    def write_weights(self) -> None:
        for weight, master in zip(self._weights, self.masters, strict=True):
            if weight is not master:
                weight.data.copy_(master)

    def update_teacher_copy(self) -> None:
        for copy, teacher in zip(self._copies, self.local("teacher"), strict=True):
            if copy is not None:
                copy.data.flatten().copy_(teacher)


class Stage12(_ZeroPartitions):
    """ZeRO 1 and 2: each group of parameters is one flat tensor, cut into equal partitions.

        group, 16 bits, whole on every rank    | a . . . . | b . . | c . . . . . . . | pad |
        cut into W equal partitions            |   rank 0        |   rank 1                |
        masters, exp_avg, exp_avg_sq, teacher  | fp32 of rank 0  |                            on rank 0

    The teacher's low-precision copy has the group's flat layout. Its parameters are views, so that one all-gather per
    group updates all of them.
    """

    def __init__(self, engine: Any, names: dict[nn.Parameter, str], tracked: list[Tracked]) -> None:
        super().__init__(engine, names, {names[p]: p.shape for p in names})
        wrapper = engine.optimizer
        if hasattr(wrapper, "bf16_groups"):  # stage 1 in bf16 with fp32 gradient accumulation has its own wrapper
            groups, flats = wrapper.bf16_groups, wrapper.bf16_groups_flat
            self.masters, offsets = wrapper.fp32_groups_flat_partition, [_cumulative(group) for group in groups]
        else:
            groups, flats = wrapper.round_robin_bit16_groups, wrapper.bit16_groups_flat
            self.masters, offsets = wrapper.single_partition_of_fp32_groups, wrapper.round_robin_bit16_offsets
            if engine.device.type == "cuda":
                by_group = wrapper.averaged_gradients
                wrapper.has_overflow_partitioned_grads_serial = lambda: not_finite(
                    chain.from_iterable(by_group.values())
                )
        self._wrapper, self._flats = wrapper, flats
        self.groups = list(range(len(self.masters)))
        self.fragments = [
            fragment
            for i, group in enumerate(groups)
            for parameter, offset in zip(group, offsets[i], strict=True)
            for fragment in self._fragment(i, parameter, offset)
        ]
        frozen = {t.student: t.teacher for t in tracked}
        self._copies = [_flat_copy(*layout, frozen) for layout in zip(flats, groups, offsets, strict=True)]

    def _fragment(self, index: int, parameter: nn.Parameter, offset: int) -> Iterable[Fragment]:
        """Yield the part of a parameter at `offset` of its flat group that lies in this rank's partition, if any."""
        size = self.masters[index].numel()
        left = dist.get_rank() * size
        begin, end = max(left, offset), min(left + size, offset + parameter.numel())
        if begin < end:
            yield Fragment(self._names[parameter], index, begin - left, begin - offset, end - begin)

    def clear_gradients(self) -> None:
        if getattr(self._wrapper, "cpu_offload", False):
            _zero_gradients(self.masters)

    def write_weights(self) -> None:
        for flat, master in zip(self._flats, self.masters, strict=True):
            _spread(master, flat)

    def update_teacher_copy(self) -> None:
        for copy, teacher in zip(self._copies, self.local("teacher"), strict=True):
            if copy is not None:
                _spread(teacher, copy)


class Stage3(_ZeroPartitions):
    """ZeRO 3: each parameter, the frozen copies included, is cut into equal partitions.

    Updating the teacher's copy needs no communication.
    """

    def __init__(self, engine: Any, names: dict[nn.Parameter, str], tracked: list[Tracked]) -> None:
        super().__init__(engine, names, {name: p.ds_shape for p, name in names.items()})  # type: ignore[attr-defined]
        wrapper = engine.optimizer
        self.masters = wrapper.fp32_partitioned_groups_flat
        self.groups = [wrapper.sub_group_to_group_id[i] for i in range(len(self.masters))]
        self._place = {p: wrapper.grad_position[wrapper.get_param_id(p)] for p in names}
        self.fragments = [fragment for p in names for fragment in self._fragment(p)]
        self._tracked = tracked
        self._wrapper = wrapper

    def _fragment(self, parameter: Any) -> Iterable[Fragment]:
        index, offset, numel = self._place[parameter]
        start = dist.get_rank() * numel
        real = min(numel, parameter.ds_numel - start)  # the last ranks hold padding
        if real > 0:
            yield Fragment(self._names[parameter], index, offset, start, real)

    def clear_gradients(self) -> None:
        self._wrapper.grad_partitions_flat_buffer.zero_()
        _zero_gradients(self.masters)  # they last where the optimizer is offloaded

    def write_weights(self) -> None:
        for parameter in self._place:
            self._write(parameter, self._slice(self.masters, parameter))

    def update_teacher_copy(self) -> None:
        teachers = self.local("teacher")
        for t in self._tracked:
            self._write(t.teacher, self._slice(teachers, t.student))

    def _slice(self, partitions: list[Tensor], parameter: nn.Parameter) -> Tensor:
        index, offset, numel = self._place[parameter]
        return partitions[index].detach().narrow(0, offset, numel)

    def _write(self, parameter: Any, values: Tensor) -> None:
        if parameter.ds_status == ZeroParamStatus.AVAILABLE:
            # A small parameter that ZeRO keeps whole: drop the whole copy, the next forward pass gathers a new one.
            parameter.partition()
        parameter.ds_tensor.data.copy_(values)


def partitions(engine: Any, names: dict[nn.Parameter, str], tracked: list[Tracked]) -> Partitions:
    """Return the layout of `engine`. `names` holds the optimizer's parameters and their names in checkpoints.

    Raises RuntimeError if DeepSpeed lacks an attribute that this file reads.
    """
    try:
        match engine.zero_optimization_stage():
            case 0:
                return Stage0(engine, names, tracked)
            case 3:
                return Stage3(engine, names, tracked)
            case _:
                return Stage12(engine, names, tracked)
    except (AttributeError, KeyError) as error:
        import deepspeed

        raise RuntimeError(
            f"DeepSpeed {deepspeed.__version__} lays its partitions out in another way ({error}); "
            f"install one of the tested versions: {', '.join(TESTED_VERSIONS)}"
        ) from error


def _zero_gradients(masters: list[Tensor]) -> None:
    for master in masters:
        if master.grad is not None:
            master.grad.zero_()


def _cumulative(group: list[nn.Parameter]) -> list[int]:
    offsets, total = [], 0
    for parameter in group:
        offsets.append(total)
        total += parameter.numel()
    return offsets


def _flat_copy(
    flat: Tensor, group: list[nn.Parameter], offsets: list[int], frozen: dict[nn.Parameter, nn.Parameter]
) -> Tensor | None:
    """Move the frozen copies of `group` into one flat tensor laid out like `flat`; None if nothing is tracked."""
    if not any(parameter in frozen for parameter in group):
        return None
    copy = torch.zeros_like(flat)
    for parameter, offset in zip(group, offsets, strict=True):
        if parameter in frozen:
            view = copy.narrow(0, offset, parameter.numel()).view(parameter.shape)
            view.copy_(frozen[parameter].data)
            frozen[parameter].data = view
    return copy


def _spread(mine: Tensor, whole: Tensor) -> None:
    """Cast this rank's partition into its place in a flat tensor, and fetch the other ranks' parts."""
    rank, world = dist.get_rank(), dist.get_world_size()
    part = whole.data.chunk(world)[rank]
    part.copy_(mine)
    if world > 1:
        _all_gather_into(whole.data, part)


def _all_gather_into(output: Tensor, mine: Tensor) -> None:
    """All-gather equal parts of `output`, in place."""
    if output.device.type == "cpu":  # gloo gathers into a list; the parts are views of `output`
        dist.all_gather(list(output.chunk(dist.get_world_size())), mine.clone())
    else:
        dist.all_gather_into_tensor(output, mine)
