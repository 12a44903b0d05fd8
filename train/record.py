"""What a checkpoint says of how it was trained."""

import platform
from importlib.metadata import version
from typing import Any

import datasets
import torch
from transformers import BertConfig

from neurotool.student import Student
from neurotool.tasks import TaskData
from neurotool.train.plan import TrainingPlan
from neurotool.train.reading import Texts
from neurotool.train.teacher import SCRATCH, LoadedTeacher


def describe_teacher(
    plan: TrainingPlan, loaded: LoadedTeacher, config: BertConfig, texts: Texts, metrics: dict[str, float]
) -> dict[str, Any]:
    """What a checkpoint says of its teacher."""
    scratch = {"texts": len(texts.train), "vocabulary": len(loaded.tokenizer)} if plan.teacher == SCRATCH else None
    return {
        "name": plan.teacher,
        "from_scratch": scratch,
        "layers": config.num_hidden_layers,
        "shape": {name: getattr(config, name) for name in ("num_hidden_layers", *Student.shares)},
        "metrics": metrics,
        "sha256": loaded.identity,
    }


def describe_data(
    data: TaskData, identity: dict[str, str], texts: Texts, task_texts: datasets.Dataset
) -> dict[str, Any]:
    """What a checkpoint says of its data."""
    return {
        "name": data.task.name,
        "hashes": {name: identity[name] for name in ("train", "validation", "corpus") if name in identity},
        "train_size": len(texts.train),
        "variants": len(task_texts) - len(texts.train),
        "validation_size": len(texts.validation),
    }


def describe_run(plan: TrainingPlan, seconds: float) -> dict[str, Any]:
    """What a checkpoint says of how it was made, whatever it is."""
    return {
        "seed": plan.seed,
        "seconds": round(seconds, 1),
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {name: version(name) for name in ("neurotool", "torch", "transformers", "numpy")},
    }
