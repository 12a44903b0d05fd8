"""Whether a student's layers are compiled for training (Student.fuse): what --compile asks for, and what is at hand."""

import torch
from rich.console import Console

from neurotool.errors import ConfigError, one_line
from neurotool.student import Student
from neurotool.train.plan import TrainingPlan
from neurotool.train.progress import say

PAYS_FROM = 1000
"""Training steps from which compiling, half a minute or more, is earned back."""


def fuse_student(plan: TrainingPlan, student: Student, steps: int, console: Console) -> None:
    """Compile the student's layers where the plan wants it. With `auto` that is for runs of PAYS_FROM steps, where
    torch finds a compiler and the student's layers can be compiled.

    Raises ConfigError where it was asked for and cannot be.
    """
    if plan.compile == "off" or (plan.compile == "auto" and (steps < PAYS_FROM or not student.can_fuse)):
        return
    if not student.can_fuse or plan.gradient_checkpointing:
        what = (
            "with --gradient-checkpointing" if plan.gradient_checkpointing else "with these neurons and this schedule"
        )
        raise ConfigError(f"--compile on: a {plan.model_type} student cannot be compiled {what}; leave it out")
    if problem := compiler_problem(student.device):
        if plan.compile == "on":
            raise ConfigError(f"--compile on: torch cannot compile here ({problem}); use --compile auto or off")
        return
    say(console, "the student's layers are compiled: the first step takes half a minute or more")
    student.fuse()


def compiler_problem(device: torch.device) -> str | None:
    """Why torch.compile does not work on `device`; None where it does. Tries it on a line."""
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(4, device=device))
    except Exception as error:  # a missing compiler, header or Triton, each with an error of its own
        return one_line(error)[:200]
    return None
