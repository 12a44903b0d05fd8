"""How close the simulated firing rates come to the steady state as T grows, layer by layer."""

from pathlib import Path

import torch
from torch import Tensor

from neurotool.errors import ConfigError
from neurotool.files import replacing
from neurotool.student import SpikingBertForSequenceClassification, Student
from neurotool.student.configuration import Schedule

Errors = dict[str, dict[int, dict[str, float]]]
"""schedule -> T -> neuron layer -> mean |ASR - steady state| over real tokens and neurons"""


@torch.no_grad()
def measure_convergence(
    student: Student,
    batch: dict[str, Tensor],
    time_steps: list[int],
    schedules: tuple[Schedule, ...] = ("phased", "concurrent"),
) -> Errors:
    """Mean |ASR - steady state| on one batch (input_ids, attention_mask, token_type_ids). Raises ConfigError: see
    check_convergent."""
    student = check_convergent(student)
    student.eval()
    mask = batch["attention_mask"]
    tokens = mask.bool()
    current = student.embeddings(input_ids=batch["input_ids"], token_type_ids=batch.get("token_type_ids"))
    steady = student.steady_state(current, mask)
    configured = student.config.schedule
    errors: Errors = {}
    try:
        for schedule in schedules:
            student.config.schedule = schedule
            errors[schedule] = {
                t: {
                    name: float((rate - steady[name]).abs()[tokens].mean())
                    for name, rate in student.simulate(current, mask, t).items()
                }
                for t in sorted(time_steps)
            }
    finally:
        student.config.schedule = configured
    return errors


def check_convergent(student: Student) -> SpikingBertForSequenceClassification:
    """Raises ConfigError for a student whose steady state both schedules are not made to reach."""
    if isinstance(student, SpikingBertForSequenceClassification):
        return student
    kind = student.config.model_type
    if not student.neuron_layers:
        raise ConfigError(f"student {kind} has no neurons: there is no steady state to converge to")
    if student.config.schedule == "phased":
        raise ConfigError(f"student {kind}: only students spikingbert run in both schedules, which this compares")
    raise ConfigError(f"student {kind} is trained through time: there is no steady state to converge to")


def plot_convergence(errors: Errors, path: Path, force: bool = False) -> None:
    """One panel a schedule: error against T for the embedding and each encoder layer's output, on log axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(errors), figsize=(5 * len(errors), 4), sharey=True, squeeze=False)
    for panel, (schedule, by_steps) in zip(panels[0], errors.items(), strict=True):
        steps = sorted(by_steps)
        shown = [name for name in by_steps[steps[0]] if name == "embedding" or name.endswith(".output")]
        for name in shown:
            panel.plot(steps, [by_steps[t][name] for t in steps], marker="o", label=name)
        start = by_steps[steps[0]]["embedding"] * steps[0]
        panel.plot(steps, [start / t for t in steps], color="grey", linestyle=":", label="1/T")
        panel.set(xscale="log", yscale="log", title=schedule, xlabel="time steps T")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("mean |ASR - steady state|")
    panels[0][-1].legend(fontsize="small")
    figure.tight_layout()
    known = sorted(figure.canvas.get_supported_filetypes())
    kind = path.suffix[1:] or "png"
    try:
        if kind not in known:
            raise ConfigError(f"{path}: unknown plot type {path.suffix!r}; use one of {', '.join(known)}")
        with replacing(path, force) as temporary:
            figure.savefig(temporary, dpi=150, format=kind)
    finally:
        pyplot.close(figure)
