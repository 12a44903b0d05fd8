"""What a person sees while something trains: a bar on a terminal, lines elsewhere."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_SHOWN = ("loss", "hidden", "attention", "relations", "soft", "prefix", "hard", "spiking_rate", "events_per_synapse")
"""Of what is logged, besides the shares of active neurons."""


class ShowProgress(TrainerCallback):
    """Loss and its terms, the last validation metrics and the mean spiking rate. Only the first process prints."""

    def __init__(self, console: Console, stage: str) -> None:
        self.console, self.stage = console, stage
        self.training: dict[str, float] = {}
        self.validation: dict[str, float] = {}
        self.bar: Progress | None = None

    def __enter__(self) -> "ShowProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        if not self.console.is_terminal:
            say(self.console, f"{self.stage}: {state.max_steps} steps")
            return
        columns = (TextColumn("{task.description}"), BarColumn(12), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, TextColumn("{task.fields[shown]}"), console=self.console)
        self.task = self.bar.add_task(self.stage, total=state.max_steps, completed=state.global_step, shown="")
        self.bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        logs = logs or {}
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        validation = {k.removeprefix("eval_"): v for k, v in logs.items() if k.startswith("eval_")}
        for name in ("loss", "runtime", "samples_per_second", "steps_per_second"):
            validation.pop(name, None)
        shown = {name: float(logs[name]) for name in logs if name in _SHOWN or name.startswith("active_")}
        self.training, self.validation = shown or self.training, validation or self.validation
        if self.bar:
            self.bar.update(self.task, shown=self._short())
            if validation:
                self.bar.console.print(self._epoch(state), highlight=False, markup=False)
        elif validation:
            say(self.console, self._epoch(state))
        else:
            say(self.console, f"{self.stage}: step {state.global_step}/{state.max_steps}, {_line(shown)}")

    def _epoch(self, state: TrainerState) -> str:
        return f"{self.stage}: epoch {state.epoch:.3g}, validation {_line(self.validation)}"

    def _short(self) -> str:
        """What fits beside the bar on 80 columns."""
        metric = [f"{name[:8]} {value:.3f}" for name, value in list(self.validation.items())[:1]]
        short = {"loss": "loss", "spiking_rate": "rate"}
        return " ".join([f"{s} {self.training[n]:.3f}" for n, s in short.items() if n in self.training] + metric)


def say(console: Console, line: str) -> None:
    """Print a line as it is: not wrapped, no colours, and brackets in a path are no markup."""
    console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)


def _line(values: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in values.items())
