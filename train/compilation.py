"""Whether a student's layers are compiled for training (Student.fuse): what --compile asks for, and what is at hand."""

import torch
from rich.console import Console

from neurotool.errors import ConfigError, one_line
from neurotool.student import STUDENTS, SpikeBertConfig, SpikingBertConfig, Student
from neurotool.student.configuration import StudentConfig
from neurotool.train.plan import TrainingPlan
from neurotool.train.progress import say

PAYS_FROM = 1000
"""Training steps from which compiling, half a minute or more, is earned back."""


def check_compilation(plan: TrainingPlan, config: StudentConfig) -> None:
    """Raises ConfigError where the student's layers are to be compiled and cannot be."""
    if plan.compile != "on" or (_can_fuse(config) and not plan.gradient_checkpointing):
        return
    kind, way_out = f"a {config.model_type} student's layers", "leave out one of them"
    if plan.gradient_checkpointing:
        cause = f"--gradient-checkpointing: {kind} cannot be compiled and run anew"
    elif isinstance(config, SpikeBertConfig) and config.schedule == "phased":
        cause = f"--schedule phased: {kind} are compiled in the concurrent one only"
    elif not isinstance(config, SpikingBertConfig):
        cause, way_out = f"{kind} cannot be compiled", "leave it out"
    elif config.schedule != "phased":
        cause = f"--schedule {config.schedule}: only phased windows can be compiled"
    elif config.feedback:
        cause = f"--feedback: {kind} cannot be compiled with it"
    else:
        cause = f"--leak {config.leak:g}, --reset {config.reset}: only windows of leak 1 and soft reset can be compiled"
    raise ConfigError(f"--compile on{',' if cause[0] == '-' else ':'} {cause}; {way_out}")


def fuse_student(plan: TrainingPlan, student: Student, steps: int, console: Console) -> None:
    """Compile the student's layers where the plan wants it. With `auto` that is for runs of PAYS_FROM steps, where
    torch finds a compiler, the student's layers can be compiled and a step gets faster by it.

    Raises ConfigError where it was asked for and torch cannot.
    """
    possible = student.can_fuse and not plan.gradient_checkpointing and not plan.fsdp
    worth_it = possible and steps >= PAYS_FROM and _pays(student.device)
    if plan.compile == "off" or (plan.compile == "auto" and not worth_it):
        return
    say(console, "compiling the student's layers, which takes half a minute or more; --compile off goes without")
    student.fuse()
    if problem := _first_step(student, plan):
        student.fused = None
        if plan.compile == "on":
            raise ConfigError(f"--compile on: torch cannot compile here ({problem}); use --compile auto or off")
        say(console, f"torch cannot compile here, so the layers run as they are: {problem}")


def _can_fuse(config: StudentConfig) -> bool:
    with torch.device("meta"):
        return STUDENTS[config.model_type](config).can_fuse


def _pays(device: torch.device) -> bool:
    """Where products are slow, compiled layers were a fifth slower (docs/results.md, "Speed")."""
    return device.type != "cpu" or "AVX512" in torch.backends.cpu.get_cpu_capability()


def _first_step(student: Student, plan: TrainingPlan) -> str | None:
    """Compile by a step of training that changes nothing. Returns why it failed, if it did."""
    training, ids = student.training, torch.zeros((2, 8), dtype=torch.long, device=student.device)
    attention = any(stage.weights.attention_needed for stage in plan.stages)
    try:
        with torch.random.fork_rng(), torch.autocast(ids.device.type, torch.bfloat16, plan.precision == "bfloat16"):
            student.train()(ids, output_attention=attention).logits.sum().backward()
    except Exception as error:  # a missing compiler, header or Triton, each with an error of its own
        return one_line(error)[:200]
    finally:
        student.train(training).zero_grad()
    return None
