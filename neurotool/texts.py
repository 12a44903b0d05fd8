"""How texts become tokens: what a tokenizer is loaded from, where a text is cut, on which side it is padded.

Training, evaluate, predict, run, energy and export all read texts through this module: one text, one answer.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from neurotool.errors import DataError, one_line, shown

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
PAIR = ("sentence1", "sentence2")
"""Columns of the texts in a data set."""
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
MAX_LENGTH = 512
"""Tokens that a text is cut to where nothing is recorded."""
_NAMES = ("unk_token", "pad_token", "cls_token", "sep_token", "mask_token")


class Encoded(NamedTuple):
    """tokens: INPUTS of each text, unpadded. cut: whether each text had to be cut."""

    tokens: dict[str, list[list[int]]]
    cut: list[bool]


def longest(plan: Mapping[str, Any], positions: int) -> int:
    """Tokens that texts are cut to: the training plan's max_length, and never more than the network's positions.

    Raises DataError: the plan holds no such number.
    """
    length = plan.get("max_length", MAX_LENGTH)
    if type(length) is not int or length < 1:
        raise DataError(f"the training record's max_length is {str(length)[:40]!r}: it must be a whole number from 1")
    return min(length, positions)


def encode(tokenizer: "PreTrainedTokenizerBase", columns: Sequence[Sequence[str]], max_length: int) -> Encoded:
    """Tokens of texts, or of pairs where there are two columns, with special tokens, cut to `max_length`.

    Raises DataError: a text is not text (half of a surrogate pair, as of a byte that is not UTF-8), the tokenizer
    fails, or it gives no token for a text.
    """
    for column in columns:
        for text in column:
            check_text(text)
    try:
        encoded = tokenizer(
            *(list(column) for column in columns),
            truncation=True,
            max_length=max_length,
            return_token_type_ids=True,
            return_attention_mask=True,
        )
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the tokenizers library raises plain Exceptions, and panics outside of them
        raise DataError(f"the tokenizer cannot read the texts ({one_line(error)}); use another tokenizer") from error
    if (at := next((i for i, ids in enumerate(encoded["input_ids"]) if not ids), None)) is not None:
        raise DataError(f"the tokenizer gives no token for {shown(columns[0][at])}; use another tokenizer")
    cut = [bool(encoding.overflowing) for encoding in encoded.encodings or []]
    return Encoded({name: encoded[name] for name in INPUTS}, cut)


def pad(
    tokenizer: "PreTrainedTokenizerBase", tokens: Mapping[str, Any], length: int | None = None, tensors: str = "pt"
) -> "BatchEncoding":
    """INPUTS (texts, tokens) with padding on the right, to `length` or to the longest. tensors: "pt" or "np"."""
    padding = "longest" if length is None else "max_length"
    inputs = {name: tokens[name] for name in INPUTS if name in tokens}
    return tokenizer.pad(inputs, padding=padding, max_length=length, padding_side="right", return_tensors=tensors)


def check_text(text: str, name: str = "") -> str:
    """The text itself. Raises DataError, which begins with `name`, where it cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{name or 'a text'}: {text[:40]!r} is not UTF-8; convert it first") from None
    return text


def as_utf8(text: str) -> str:
    """The text with bytes that are not UTF-8 (in a name of a file) replaced, so that it can be stored."""
    return text.encode("utf-8", "replace").decode("utf-8")


def tokenizer_from_files(files: Mapping[str, str]) -> "PreTrainedTokenizerBase":
    """The tokenizer of a checkpoint or bundle, from the text of its TOKENIZER_FILES and nothing else: whatever class,
    code or other file they name is left alone.

    Raises DataError: a file is missing, no JSON or no tokenizer.
    """
    from tokenizers import Tokenizer
    from transformers import AddedToken, PreTrainedTokenizerFast

    try:
        config = json.loads(files["tokenizer_config.json"])
        named = {name: config[name] for name in _NAMES if config.get(name) is not None}
        for name, token in named.items():
            if isinstance(token, dict):
                named[name] = AddedToken(**{key: token[key] for key in token if key != "__type"})
            elif not isinstance(token, str):
                raise ValueError(f"{name} is {str(token)[:40]}, which is no token")
        check_patterns(files["tokenizer.json"])
        side = config.get("truncation_side", "right")
        made = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(files["tokenizer.json"]),
            model_input_names=list(INPUTS),
            truncation_side=side if side in ("left", "right") else "right",
            **named,
        )
    except KeyError as error:
        raise DataError(f"{error.args[0]} is missing") from error
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the tokenizers library raises plain Exceptions, and panics outside of them
        raise DataError(one_line(error)) from error
    return made


def check_patterns(tokenizer_json: str) -> None:
    """Raises DataError where a regular expression of a tokenizer may take for ever on some text."""
    made = json.loads(tokenizer_json)
    try:
        for expression in expressions({key: value for key, value in made.items() if key != "model"}):
            check_expression(expression)
    except ValueError as error:
        raise DataError(str(error)) from error


def expressions(value: Any) -> Iterator[str]:
    """Of the parts of a tokenizer: {"Regex": "…"}."""
    if isinstance(value, dict):
        if isinstance(value.get("Regex"), str):
            yield value["Regex"]
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            yield from expressions(entry)


_ATOM = re.compile(r"\\[pP]\{\^?\w+\}|\\.|\[(?:\\.|[^\]\\])*\]", re.DOTALL)
_PLAIN_GROUP = re.compile(r"\((?:\?(?:<?[=!]|[a-z-]*:|>|<\w+>))?[^()*+{]*\)")
_REPEAT = re.compile(r"[*+]|\{\d*,\d*\}")
MOST_REPEATS = 2


def check_expression(expression: str) -> None:
    """Refuses a regular expression that may need time without bound: an engine that goes back tries every way in which
    repeats within repeats, or many side by side, can share out a text. So no group repeats, nothing refers back, and an
    alternative has at most MOST_REPEATS repeats."""
    flat = _ATOM.sub("x", expression)
    endless = re.search(r"\\[1-9kg]", expression) or re.search(r"\)[*+{]|\(\?(?:#|[a-z-]*x)", flat)
    while (folded := _PLAIN_GROUP.sub("x", flat)) != flat:
        flat = folded
    branches = [flat] if "(" in flat else flat.split("|")
    if endless or any(len(_REPEAT.findall(branch)) > MOST_REPEATS for branch in branches):
        raise ValueError(f"the tokenizer's expression {shown(expression)} has repeats that could go on for ever")


def load_tokenizer(location: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a teacher: a folder, or an id of the hub. Code that it names is never run.

    Raises OSError, ValueError and others of transformers; DataError for one that texts cannot be read with.
    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(location, use_fast=True, trust_remote_code=False)
    tokenizer.padding_side = "right"  # positions are counted from the first token of the text
    if not tokenizer.is_fast:
        raise DataError(
            f"its tokenizer ({type(tokenizer).__name__}) has no fast form: it needs a tokenizer.json, which "
            "`tokenizers` reads"
        )
    check_patterns(tokenizer.backend_tokenizer.to_str())
    if tokenizer.pad_token_id is None:
        raise DataError("its tokenizer has no padding token: name one as pad_token in tokenizer_config.json")
    return tokenizer


def tokenizer_files(tokenizer: "PreTrainedTokenizerBase") -> dict[str, str]:
    """TOKENIZER_FILES by name, from which `tokenizer_from_files` makes the same tokenizer again."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = {name: (Path(folder) / name).read_text(encoding="utf-8") for name in TOKENIZER_FILES}
    config = json.loads(files["tokenizer_config.json"]) | {"padding_side": "right"}
    config.pop("auto_map", None)
    return files | {"tokenizer_config.json": json.dumps(config, indent=2)}
