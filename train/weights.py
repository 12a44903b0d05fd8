"""Whether a teacher's files hold the BERT that its config describes. transformers fills what is missing at random and
leaves out what does not fit; both are found here before anything is loaded."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils import cached_file

from neurotool.errors import TeacherError, listing, shown

WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.", "auto_model.", "0.auto_model.", "base_model.")
"""What saving out of a wrapper or a compiled model puts before every name."""
_OTHER_HEADS = ("ForTokenClassification", "ForMultipleChoice", "ForQuestionAnswering")
_LEFT_OUT = re.compile(r"cls\.|qa_outputs\.|(bert\.)?embeddings\.(position_ids|token_type_ids)$")
"""Heads of pretraining and of other tasks, and the buffers that old versions saved."""
_HEAD = "classifier."
_POOLER = "bert.pooler."
_LEGACY = {".gamma": ".weight", ".beta": ".bias"}
_FLOATS = ("F64", "F32", "F16", "BF16")
_NOT_HONOURED: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute", None),
    "quantization_config": (None,),
    "pruned_heads": ({}, None),
}
"""Fields of config.json that change what a BERT computes and that transformers does not read (any more), each with the
values that mean nothing."""
_WITHOUT_MEANING = re.compile(
    r"_.*|pooler_.*|(torch_)?dtype|num_labels|directionality|gradient_checkpointing|auto_map|architectures|language|name"
    r"|attn_implementation|finetuning_task|tokenizer_class|use_bfloat16|torchscript|output_past|adapters|model_type"
    r"|(sep|decoder_start|forced_[be]os)_token_id|max_length|min_length|do_sample|early_stopping|num_(beams|return_.*)"
    r"|temperature|top_[kp]|typical_p|.*penalty|.*no_repeat.*|bad_words_ids|prefix|task_specific_params|remove_invalid_.*"
    r"|output_scores|return_dict.*|tie_encoder_decoder|cross_attention_hidden_size|exponential_decay_.*|suppress_tokens"
    r"|begin_suppress_tokens|diversity_penalty|is_composition|tf_legacy_loss|transformers\.js_config"
)


class Fit(NamedTuple):
    """has_head: whether the file holds a head for a task like ours. other_head: whether it holds one of the same name
    for another. prefix: of a wrapper, to be taken off every name. notes: what a person should know."""

    has_head: bool
    other_head: bool
    prefix: str
    notes: tuple[str, ...]


def check_files(name: str, location: str, config: BertConfig) -> Fit:
    """Compare the files at `location`, a folder or an id of the hub, with `config`.

    Raises TeacherError: a field that is not honoured, tensors that are missing (but for a head that is to be made),
    belong to no layer, have another shape or are no floating-point numbers; names them.
    """
    fields = _fields(location)
    for field, harmless in _NOT_HONOURED.items():
        if fields.get(field) not in harmless:
            raise TeacherError(
                f"teacher {name}: its config.json has {field} {shown(fields[field])}, which this BERT does not "
                "compute; choose another teacher"
            )
    layout = _layout(name, location)
    prefix = _wrapper(layout)
    notes = [f"its tensors are named behind a wrapper's {prefix!r}, which is taken off"] if prefix else []
    stripped = {_renamed(tensor.removeprefix(prefix)): shape for tensor, shape in layout.items()}
    has_head, other_head = _find_head(name, config, stripped, notes)
    _compare(name, config, stripped, has_head)
    if unread := _unread(fields):
        notes.append(f"its config.json has fields that this BERT does not read: {listing(unread, 5)}")
    if config.is_decoder:
        notes.append("its config.json says is_decoder: a token sees only those before it")
    return Fit(has_head, other_head, prefix, tuple(notes))


def _fields(location: str) -> dict[str, Any]:
    fields = json.loads(Path(str(cached_file(location, "config.json"))).read_text(encoding="utf-8"))
    return fields if isinstance(fields, dict) else {}


def _unread(fields: Mapping[str, Any]) -> list[str]:
    known = BertConfig().to_dict().keys() | _NOT_HONOURED.keys()
    return [field for field in fields if field not in known and not _WITHOUT_MEANING.fullmatch(field)]


def _layout(name: str, location: str) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, from one file or from several with an index."""
    layout: dict[str, tuple[int, ...]] = {}
    for path in _files(name, location):
        with safe_open(path, framework="pt") as file:
            for tensor in file.keys():  # noqa: SIM118  not a dict
                part = file.get_slice(tensor)
                if part.get_dtype() not in _FLOATS and not _LEFT_OUT.search(tensor):
                    raise TeacherError(
                        f"teacher {name}: tensor {tensor} is of type {part.get_dtype()}; weights must be floating point"
                    )
                layout[tensor] = tuple(part.get_shape())
    return layout


def _files(name: str, location: str) -> list[str]:
    def find(file: str) -> str | None:
        return cached_file(
            location, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )

    if find("adapter_config.json"):
        raise TeacherError(
            f"teacher {name}: has an adapter (adapter_config.json), which is not applied: merge it into the weights "
            "(PEFT's merge_and_unload), or remove it"
        )
    if whole := find("model.safetensors"):
        return [whole]
    index = find("model.safetensors.index.json")
    if index is None:
        raise TeacherError(f"teacher {name} cannot be loaded: it needs weights as .safetensors (model.safetensors)")
    try:
        shards = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [shard for shard in shards if Path(shard).name != shard]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TeacherError(f"teacher {name}: {Path(index).name} lists no files; save the teacher again") from error
    if outside:
        raise TeacherError(f"teacher {name}: {Path(index).name} names {shown(outside[0])}, outside of its folder")
    found = {shard: find(shard) for shard in shards}
    if missing := [shard for shard, path in found.items() if path is None]:
        raise TeacherError(
            f"teacher {name} cannot be loaded: {missing[0]} is missing ({len(missing)} of {len(shards)})"
        )
    return [path for path in found.values() if path]


def _wrapper(names: Iterable[str]) -> str:
    """The prefix of known wrappers that all names share."""
    prefix, names = "", list(names)
    while names:
        more = next((w for w in WRAPPERS if all(name.startswith(prefix + w) for name in names)), None)
        if more is None:
            break
        prefix += more
    return prefix


def _renamed(name: str) -> str:
    """The name in BertForSequenceClassification, of a bare BertModel's tensor, or one of an old version."""
    for old, new in _LEGACY.items():
        if name.endswith(f"LayerNorm{old}"):
            name = name.removesuffix(old) + new
    return f"bert.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


def _find_head(
    name: str, config: BertConfig, layout: dict[str, tuple[int, ...]], notes: list[str]
) -> tuple[bool, bool]:
    """Whether the file holds a head for texts, or else one of that name for another task, which leaves the layout."""
    kinds = [str(kind) for kind in config.architectures or ()]
    named = any("ForSequenceClassification" in kind for kind in kinds)
    if f"{_HEAD}weight" not in layout:
        if named:
            notes.append("its config.json names a head for texts, its file holds none: one is made")
        return False, False
    if named or not kinds or kinds == ["BertModel"]:
        return True, False
    if not any(kind.endswith(other) for kind in kinds for other in _OTHER_HEADS):
        raise TeacherError(
            f"teacher {name}: its config.json names the architecture {listing(kinds, 2)}, whose head is not known; "
            "save it as a BertForSequenceClassification"
        )
    for tensor in [tensor for tensor in layout if tensor.startswith(_HEAD)]:
        del layout[tensor]
    notes.append(f"its head is another task's ({kinds[0]}): left out")
    return False, True


def _compare(name: str, config: BertConfig, layout: Mapping[str, tuple[int, ...]], has_head: bool) -> None:
    with torch.device("meta"):
        model = BertForSequenceClassification(config)
    wanted = {tensor: tuple(value.shape) for tensor, value in model.state_dict().items()}
    made = () if has_head else (_HEAD, _POOLER)
    missing = [tensor for tensor in wanted if tensor not in layout and not tensor.startswith(made)]
    surplus = [tensor for tensor in layout if tensor not in wanted and not _LEFT_OUT.match(tensor)]
    if missing or surplus:
        found = len(wanted) - sum(tensor not in layout for tensor in wanted)
        parts = [f"{len(missing)} are missing ({_first(missing)})"] if missing else []
        parts += [f"{len(surplus)} belong to no layer ({_first(surplus)})"] if surplus else []
        raise TeacherError(
            f"teacher {name}: {found} of {len(wanted)} tensors fit, {', '.join(parts)}; save it as its config.json says"
        )
    for tensor, shape in wanted.items():
        if tensor in layout and layout[tensor] != shape:
            raise TeacherError(
                f"teacher {name}: tensor {tensor} has shape {layout[tensor]}, its config.json asks for {shape}; give "
                "the config it was saved with"
            )


def _first(tensors: list[str]) -> str:
    return tensors[0][:80] + (", …" if len(tensors) > 1 else "")
