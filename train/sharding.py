"""FSDP: each process of torchrun keeps a share of the parameters, their gradients and the optimiser's state.

It is torch's own: accelerate's is for GPUs and their like alone, and leaves processes on CPUs to DDP.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from neurotool.student import STUDENTS, Student
from neurotool.student.unrolled import UnrolledStudent


def shard(distiller: nn.Module, students: Sequence[Student]) -> None:
    """Share out `distiller`, which holds `students`. Layers whose number of passes is the same on all processes are
    gathered one at a time, all else of a student together. Scalars, a threshold each, stay whole, and their gradients
    are averaged as they come.

    Its state_dict holds whole tensors, and load_state_dict takes them, so that what is saved does not depend on how it
    was trained; all processes must call them.
    """
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")  # nothing changes it in place
    mesh = init_device_mesh(students[0].device.type, (dist.get_world_size(),))
    scalars = {parameter for parameter in distiller.parameters() if parameter.ndim == 0}
    for parameter in scalars:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_average)
    for student in students:
        for layer in () if isinstance(student, UnrolledStudent) else student.layers:
            fully_shard(layer, mesh=mesh, ignored_params=scalars)
        fully_shard(student, mesh=mesh, ignored_params=scalars, reshard_after_forward=False)
    fully_shard(distiller, mesh=mesh, ignored_params=scalars)
    distiller.register_state_dict_post_hook(_gather)
    distiller.register_load_state_dict_pre_hook(_take_shares)


def whole(student: Student) -> Student:
    """The student; where it is shared out, a whole copy on each process."""
    if not isinstance(student, FSDPModule):
        return student
    state = student.state_dict()
    _gather(student, state)
    copy = STUDENTS[student.config.model_type](student.config).to(student.device)
    copy.load_state_dict(state)
    return copy


class ShardableTrainer(Trainer):
    """A Trainer that may be given what `shard` shared out."""

    def _wrap_model(self, model: nn.Module, *arguments: Any, **options: Any) -> nn.Module:
        """What is shared out is not given to DDP, only to autocast."""
        if isinstance(model, FSDPModule):
            self.accelerator.prepare_model(model, evaluation_mode=True)
        wrapped: nn.Module = super()._wrap_model(model, *arguments, **options)
        return wrapped

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not isinstance(self.model, FSDPModule):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = _gathered(self.optimizer.state_dict())
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not isinstance(self.model, FSDPModule) or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(_shared_out(state, self.optimizer))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))


def _gathered(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state with whole tensors. All processes must call it."""
    return _each(state, lambda value, _: value.full_tensor() if isinstance(value, DTensor) else value)


def _shared_out(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """This process's share of such a state."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return _each(state, lambda value, number: _share(value, parameters[number]) if value.ndim else value)


def _each(state: dict[str, Any], change: Callable[[Any, int], Any]) -> dict[str, Any]:
    """state: an optimiser's, which numbers its parameters."""
    of_all = state["state"].items()
    return state | {"state": {n: {name: change(v, n) for name, v in of_one.items()} for n, of_one in of_all}}


def _share(value: Tensor, parameter: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor):
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _average(parameter: Tensor) -> None:
    """Of the gradient over processes. What was averaged before, in --accumulate, is the same on all."""
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad.div_(dist.get_world_size())


def _gather(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    for name, value in state.items():
        if isinstance(value, DTensor):
            state[name] = value.full_tensor()


def _take_shares(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    for name, parameter in module.named_parameters():
        state[name] = _share(state[name], parameter)
