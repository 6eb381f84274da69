"""Where ZeRO keeps each parameter: the only file that touches DeepSpeed's private attributes.

Tested with the DeepSpeed versions of `TESTED_VERSIONS`. Every layout is reduced to three things:

- `masters`: this rank's fp32 partitions of the weights, the keys of the base optimizer's state;
- `fragments`: which slice of which partition is which slice of which parameter;
- `update_teacher_copy()`, which casts the teacher's partitions into the frozen low-precision copy that the forward pass
  uses, and `write_weights()`, which casts the masters into the weights.

With these, `tensors()` and `restore()` take all that training needs out of one layout and put it into another. And
`clear_gradients()` undoes what ZeRO keeps of the step before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from torch import Tensor, nn
from torch import distributed as dist

from models.data2vec import Weights
from models.objective import Tracked
from pretrain.engine import distributed
from pretrain.engine.layout import MASTER, Fragment, GroupState
from pretrain.engine.teacher import STATE

TESTED_VERSIONS = ("0.19.8",)


Read = Callable[[str, str, int, Tensor], None]
"""Of a parameter, by name, and a key: fills a flat tensor with the elements from a place on."""


class Partitions(ABC):
    """The masters and the teacher of one engine, as ZeRO has laid them out."""

    masters: list[Tensor]
    groups: list[int]
    """The optimizer's parameter group that each master belongs to."""
    fragments: list[Fragment]
    sharded = True

    def __init__(self, engine: Any, names: dict[nn.Parameter, str], shapes: dict[str, torch.Size]) -> None:
        self._base = engine.basic_optimizer
        self._optimizer = engine.optimizer
        self._names = names
        self.shapes = shapes

    @abstractmethod
    def update_teacher_copy(self) -> None:
        """Cast the teacher into its low-precision copy. Collective: every rank calls it."""

    @abstractmethod
    def write_weights(self) -> None:
        """Cast the masters into the weights that the forward pass uses. Collective."""

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each master."""
        return tuple(str(number) for number in range(len(self.masters)))

    def tensors(self) -> dict[str, Tensor]:
        """All that training needs of this rank, flat and fp32, as LABEL/KEY: masters and the optimizer's states."""
        found = {}
        for label, master in zip(self.labels, self.masters, strict=True):
            found[f"{label}/{MASTER}"] = _flat(master)
            for key in self._keys(master):
                found[f"{label}/{key}"] = _flat(self._base.state[master][key])
        return found

    def group_states(self) -> list[GroupState]:
        """One entry per parameter group of the optimizer, alike on every rank."""
        found = [GroupState(None)] * len(self._base.param_groups)
        for master, group in zip(self.masters, self.groups, strict=True):
            if keys := self._keys(master):  # apex counts steps in the group
                step = self._base.state[master].get("step", self._base.param_groups[group].get("step"))
                found[group] = GroupState(int(step), keys)
        return found

    @torch.no_grad()
    def restore(self, saved: list[GroupState], read: Read) -> None:
        """Overwrite masters and optimizer states with those of another engine, of whatever layout, and what is derived
        from them. One slice of one parameter is in memory at a time. Collective."""
        places = [self._place_states(i, saved[group]) for i, group in enumerate(self.groups)]
        for f in self.fragments:
            for key, tensor in places[f.partition].items():
                read(f.name, key, f.start, tensor.narrow(0, f.offset, f.numel))
        self.write_weights()
        self.update_teacher_copy()

    def _place_states(self, number: int, saved: GroupState) -> dict[str, Tensor]:
        """The flat tensors of one master that are to be filled, its padding zero; the step count is set."""
        master, group = self.masters[number], self._base.param_groups[self.groups[number]]
        state = self._base.state[master]
        old = {key: state[key] for key in self._keys(master)}
        state.clear()
        state |= {key: old[key] if key in old else torch.zeros_like(master) for key in saved.keys}
        if saved.step is None:
            self._base.state.pop(master)
        elif isinstance(self._base, torch.optim.AdamW):
            on_device = group["fused"] or group["capturable"]
            state["step"] = torch.tensor(float(saved.step), device=master.device if on_device else "cpu")
        else:  # apex's
            group["step"] = saved.step
        return {MASTER: _flat(master)} | {key: _flat(state[key]) for key in saved.keys}

    def _keys(self, master: Tensor) -> tuple[str, ...]:
        state = self._base.state.get(master, {})
        return tuple(k for k, v in state.items() if isinstance(v, Tensor) and v.shape == master.shape and k != "step")

    @property
    def grad_norm(self) -> Tensor | float:
        """Norm of the gradient that is about to be applied, before clipping: ZeRO knows it when it calls the base
        optimizer, DeepSpeed's engine only afterwards."""
        return self._optimizer._global_grad_norm

    @property
    def loss_scale(self) -> dict[str, Any]:
        """The state of fp16's dynamic loss scale; empty in other precisions."""
        scaler = self._scaler()
        return {key: getattr(scaler, key) for key in _SCALE if hasattr(scaler, key)}

    @loss_scale.setter
    def loss_scale(self, saved: dict[str, Any]) -> None:
        for key in self.loss_scale.keys() & saved.keys():
            setattr(self._scaler(), key, saved[key])

    def _scaler(self) -> Any:
        return getattr(self._optimizer, "loss_scaler", None) or getattr(self._optimizer, "loss_scale_config", None)

    def clear_gradients(self) -> None:  # noqa: B027 nothing to do where ZeRO makes or clears them in each step
        """Forget the gradients of the step before; called before every step.

        Where ZeRO keeps them in buffers that last, it overwrites a parameter's part only when the parameter gets a
        gradient: a block that layer drop leaves out, or another modality's encoder, would be moved by an old one.
        """

    def local(self, weights: Weights) -> list[Tensor]:
        """This rank's partitions, flat and fp32. Before the first update the teacher is the masters."""
        if weights == "student":
            return [master.detach().flatten() for master in self.masters]
        return [self._base.state.get(master, {}).get(STATE, master).detach().flatten() for master in self.masters]

    def teacher_bytes(self) -> int:
        """Bytes of the teacher's fp32 partitions on this rank; 0 before the first update."""
        states = [self._base.state.get(master, {}).get(STATE) for master in self.masters]
        return sum(state.untyped_storage().nbytes() for state in states if state is not None)

    def gather(self, weights: Weights) -> dict[str, Tensor]:
        """The full fp32 tensors, on the CPU of every rank. Collective and slow: for tests and start-up."""
        partitions = self.local(weights)
        mine = [(f, partitions[f.partition].narrow(0, f.offset, f.numel).cpu().clone()) for f in self.fragments]
        pieces = distributed.gather(mine) if self.sharded else [mine]
        return assemble(self.shapes, (piece for rank in pieces for piece in rank))

    @torch.no_grad()
    def load_masters(self, weights: dict[str, Tensor]) -> None:
        """Overwrite the masters with full fp32 tensors: what the cast to bf16 before ZeRO's start has rounded away."""
        partitions = self.local("student")
        for f in self.fragments:
            values = weights[f.name].flatten()[f.start : f.start + f.numel]
            partitions[f.partition].narrow(0, f.offset, f.numel).copy_(values)


def assemble(shapes: dict[str, torch.Size], pieces: Iterable[tuple[Fragment, Tensor]]) -> dict[str, Tensor]:
    """Put the fragments of all ranks together. Raises ValueError where a parameter is not covered exactly once."""
    flat = {name: torch.full((shape.numel(),), float("nan")) for name, shape in shapes.items()}
    covered = dict.fromkeys(shapes, 0)
    for fragment, values in pieces:
        flat[fragment.name][fragment.start : fragment.start + fragment.numel] = values
        covered[fragment.name] += fragment.numel
    wrong = [name for name, shape in shapes.items() if covered[name] != shape.numel()]
    if wrong:
        raise ValueError(f"the partitions of all ranks do not cover {wrong[0]} exactly once ({len(wrong)} such)")
    return {name: values.view(shapes[name]) for name, values in flat.items()}


_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().view(-1)


class Stage0(Partitions):
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
        return super().grad_norm / self.loss_scale.get("cur_scale", 1.0)  # this wrapper keeps that of the scaled one

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


class Stage12(Partitions):
    """ZeRO 1 and 2: each group of parameters is one flat tensor, cut into equal partitions.

    The low-precision copy has the same flat layout; its parameters are views, so that one all-gather refreshes it.
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
        """The part of a parameter at `offset` of its flat group that lies in this rank's partition, if any."""
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


class Stage3(Partitions):
    """ZeRO 3: each parameter, the frozen copies included, is cut into equal partitions; refreshing is local."""

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
            # A small parameter that ZeRO keeps whole: give the whole up, the next forward gathers the new one.
            parameter.partition()
        parameter.ds_tensor.data.copy_(values)


def partitions(engine: Any, names: dict[nn.Parameter, str], tracked: list[Tracked]) -> Partitions:
    """The layout of `engine`. `names` are the optimizer's parameters, named as in the student.

    Raises RuntimeError where DeepSpeed lacks an attribute that this file reads.
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
    """Move the frozen copies of `group` into one flat tensor laid out like `flat`; None where nothing is tracked."""
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
