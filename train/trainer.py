"""transformers' Trainer, told how to distil: what a batch's loss is, how a student is evaluated, when to stop."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import Sampler
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from neurotool.errors import TrainingError
from neurotool.evaluation import evaluate
from neurotool.tasks import Task
from neurotool.train.averaging import Average
from neurotool.train.chains import StudentTeacher
from neurotool.train.distiller import Distiller
from neurotool.train.rates import parameter_groups
from neurotool.train.sharding import ShardableTrainer
from neurotool.train.sparsity import Ramp, measure_density, split_thresholds
from neurotool.train.teacher import NOTHING_TAUGHT, Teacher
from neurotool.train.teacher_cache import POSITION, KeptOutputs

CHOOSES = "eval_chooses"
"""What the best epoch has most of: the main metric, less where the asked sparsity is not reached."""
UNSETTLED = 4.0
"""Less for an epoch whose masks still change: below all others, whose metrics are -1 to 1, less at most 2."""
TOLERANCE = 0.03
"""Relative distance from an event target that counts as reached."""


class EpochOrder(Sampler[int]):
    """All texts once, those of similar length together. The order depends on seed and epoch alone, so that a resumed
    run, and one on another number of processes, sees the same global batches."""

    def __init__(self, dataset: datasets.Dataset, batch_size: int, seed: int, epoch: Callable[[], int]) -> None:
        texts = (ids for rows in dataset.select_columns("input_ids").iter(1000) for ids in rows["input_ids"])
        self.lengths = [len(ids) for ids in texts]
        self.batch_size, self.seed, self.epoch = batch_size, seed, epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch())
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


def _attention_kernel(arguments: TrainingArguments) -> AbstractContextManager[object]:
    """Of a training step: on a processor the backward pass of fused attention is ten times slower in bfloat16 than its
    products one after the other (torch 2.13, docs/results.md, "Attention")."""
    slow = arguments.bf16 and arguments.device.type == "cpu"
    return sdpa_kernel(SDPBackend.MATH) if slow else nullcontext()


class ReproducibleTrainer(ShardableTrainer):
    """A Trainer whose batches are those of EpochOrder, and which stops at a loss and never saves weights that are not
    finite. rate_option: the option of `neurotool train` that sets its learning rate."""

    rate_option = "--learning-rate"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.model_accepts_loss_kwargs = False  # losses are means: parts of a batch are averaged

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        with _attention_kernel(self.args):
            loss: Tensor = super().training_step(*arguments, **options)
        if not torch.isfinite(loss):
            raise self.diverged(f"loss is {loss.item()} at step {self.state.global_step + 1}")
        return loss

    def _get_train_sampler(self, train_dataset: datasets.Dataset | None = None) -> Sampler[int]:
        texts = self.train_dataset if train_dataset is None else train_dataset
        batch_size = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        return EpochOrder(texts, batch_size, self.args.seed, lambda: int(self.state.epoch or 0))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self.check_weights()
        state = self.model.state_dict()  # by all processes, in case it is gathered
        if self.args.should_save:
            self._save(output_dir, state)

    def check_weights(self) -> None:
        for name, weights in self.model.state_dict().items():
            if not torch.isfinite(weights).all():
                raise self.diverged(f"{name} is not finite after step {self.state.global_step}")

    def diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{what}: training stopped; start over with --force and a {self.rate_option} below "
            f"{self.args.learning_rate:g} (until then {self.args.output_dir} keeps what was saved before)"
        )


class DistillationTrainer(ReproducibleTrainer):
    """Trains a Distiller; `task` and validation data are absent in general distillation."""

    def __init__(
        self,
        distiller: Distiller,
        teacher: Teacher | StudentTeacher,
        arguments: TrainingArguments,
        train_dataset: datasets.Dataset,
        tokenizer: PreTrainedTokenizerBase,
        validation: datasets.Dataset | None = None,
        task: Task | None = None,
        kept: KeptOutputs | None = None,
        layer_decay: float | None = None,
    ) -> None:
        if kept is not None:
            train_dataset = train_dataset.add_column(POSITION, range(len(train_dataset)))
        ramped = (penalty for penalty in (distiller.events, distiller.rising) if penalty is not None)
        callbacks: list[TrainerCallback] = [Ramp(penalty) for penalty in ramped]
        callbacks += [] if distiller.averaged is None else [Average(distiller.averaged, distiller.student)]
        super().__init__(
            distiller,
            arguments,
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=train_dataset,
            eval_dataset=validation,
            processing_class=tokenizer,
            callbacks=[*callbacks, distiller.compressor],
        )
        self.teacher = teacher.to(arguments.device)
        self.kept = kept
        self.task = task
        self.layer_decay = 1.0 if layer_decay is None else layer_decay
        if task is None:
            self.rate_option = "--general-learning-rate"
        else:
            self.args.metric_for_best_model = CHOOSES
        self._terms: dict[str, Tensor] = {}
        self.control: TrainerControl

    def create_optimizer(self, *_: Any, **__: Any) -> torch.optim.Optimizer:
        """Thresholds learn faster where messages are penalised: they are what decides how many are sent."""
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        decayed, decay = self.get_decay_parameter_names(self.model), self.layer_decay
        rate, weight_decay = self.args.learning_rate, self.args.weight_decay
        student = self.distiller.student
        self.optimizer = kind(parameter_groups(self.model, student, decayed, rate, weight_decay, decay), **options)
        if self.distiller.events is not None:
            split_thresholds(self.optimizer, student)
        return self.optimizer

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        labels = inputs.pop("labels", None)
        positions = inputs.pop(POSITION, None)
        distiller, taught = self.distiller, NOTHING_TAUGHT
        if self.kept is not None and positions is not None:
            taught = self.kept.batch(positions.tolist(), len(distiller.taps), inputs["attention_mask"])
        elif distiller.weights.teacher_needed:
            with self.accelerator.autocast():
                taught = self.teacher(inputs, *distiller.asked(self.teacher.depth))
        self._terms = model(inputs, taught, labels)
        return self._terms["loss"]

    @property
    def distiller(self) -> Distiller:
        return self.accelerator.unwrap_model(self.model)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Validation metrics of the student, and its mean spiking rate. In float32 as it will be used, also where
        training is in bfloat16: thresholds turn small differences into spikes (a point of accuracy on SST-2)."""
        if self.task is None or self.eval_dataset is None:
            return {}
        self.check_weights()
        result = evaluate(self.distiller.measured, self.eval_dataset, self.processing_class, self.task)
        metrics = {f"eval_{k}": v for k, v in result.metrics.items()}
        if result.activity.layers:
            metrics["eval_spiking_rate"] = result.activity.mean_rate
        reached = self._reached(metrics)
        self.log(metrics)
        settled = self.distiller.compressor.settled(self.state.global_step, self.state.max_steps)
        metrics[CHOOSES] = metrics[f"eval_{self.task.metrics[0]}"] - 2 * (1 - reached) - (0 if settled else UNSETTLED)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _reached(self, metrics: dict[str, float]) -> float:
        """How much of the asked sparsity of events is there, at most 1: epochs that lack some do not compete with those
        that have it. Adds what was measured to `metrics`."""
        events, student = self.distiller.events, self.distiller.measured
        if events is None:
            return 1.0
        measured = measure_density(student, events.synapses, self.eval_dataset, self.processing_class)
        metrics |= {f"eval_{name}": value for name, value in measured.items()}
        return min(1.0, events.target * (1 + TOLERANCE) / max(measured["events_per_synapse"], 1e-9))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs |= {name: float(term) for name, term in self._terms.items() if name != "loss"}
        super().log(logs, *args, **kwargs)


class StopOnInterrupt(TrainerCallback):
    """Within its `with` block Ctrl-C finishes the step, saves a checkpoint to resume from, and stops; a second one ends
    at once. Under torchrun all processes stop after the same step."""

    def __init__(self) -> None:
        self.interrupted = False

    def __enter__(self) -> "StopOnInterrupt":
        self._catching = threading.current_thread() is threading.main_thread()
        if self._catching:
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._catching:
            signal.signal(signal.SIGINT, self._previous or signal.default_int_handler)

    def _note(self, signum: int, frame: Any) -> None:
        self.interrupted = True
        if not torch.distributed.is_initialized():  # torchrun passes on the Ctrl-C that its processes got already
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if args.world_size > 1:
            anywhere = torch.tensor(float(self.interrupted), device=args.device)
            torch.distributed.all_reduce(anywhere)
            self.interrupted = bool(anywhere)
        if self.interrupted:
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self.interrupted and state.epoch % 1:
            # The Trainer takes the end of training for the end of an epoch. Its metrics would compete with the epochs'.
            control.should_evaluate = control.should_save = False
        return control


def is_first_process() -> bool:
    """Whether this process prints and writes; true for all but the others of torchrun."""
    return int(os.environ.get("RANK", 0)) == 0
