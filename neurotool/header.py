"""What the headers of our files may say: of a checkpoint, of a bundle's manifest, of the tokenizer in both.

Every figure that is used later has its type and range here, and is compared with what the file says elsewhere: a file
that contradicts itself is refused before anything is built from it. All checks raise ValueError.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from neurotool.activity import Activity
from neurotool.checkpoint import Checkpoint
from neurotool.errors import DataError, one_line, shown
from neurotool.graph import MAX_TIME_STEPS, Embedding, Graph, Readout
from neurotool.schema import (
    Check,
    boolean,
    listing,
    mapping,
    number,
    one_of,
    optional,
    record,
    strict_json,
    text,
    whole,
)
from neurotool.texts import TOKENIZER_FILES, check_expression, encode, expressions, pad

_SIZE = whole(1, 2**31)
_POSITIVE = number(1e-6, 1e6)
_METRICS = mapping(number(-1e9, 1e9))
_TASK = record(
    {
        "name": text(1000),
        "text_columns": listing(text(1000), 1, 2),
        "label_names": listing(text(1000), unique=True),
        "metrics": listing(one_of("accuracy", "f1", "matthews", "pearson", "spearman"), 1, unique=True),
    },
    {"label_column": text(1000), "numbered": boolean},
)
_HASHES = mapping(text(64))
_PLAN = record({}, {"max_length": whole(1, 2**31), "data": optional(text()), "task": text(1000)})

CONFIG: dict[str, Check] = {
    "model_type": text(100),
    "vocab_size": _SIZE,
    "hidden_size": _SIZE,
    "num_hidden_layers": whole(0, 10_000),
    "num_attention_heads": _SIZE,
    "intermediate_size": _SIZE,
    "max_position_embeddings": _SIZE,
    "type_vocab_size": _SIZE,
    "layer_norm_eps": number(0, 1),
    "id2label": mapping(text(1000)),
    "time_steps": whole(1, MAX_TIME_STEPS),
    "schedule": text(100),
    "spikes": text(100),
    "leak": number(0, 1),
    "reset": text(100),
    "v_threshold": _POSITIVE,
    "learn_v_threshold": boolean,
    "v_init": number(-1, 1),
    "pooling": text(100),
}
"""What the config of every student has; its class knows which words are which."""
_OTHER_CONFIG: dict[str, Check] = {
    "pad_token_id": optional(whole(0, 2**31)),
    "hidden_dropout_prob": number(0, 1),
    "attention_probs_dropout_prob": number(0, 1),
    "initializer_range": number(0, 1e6),
    "taps": whole(0, 10_000),
}
_CONFIG_OF: dict[str, dict[str, Check]] = {
    "spikingbert": {"feedback": boolean, "feedback_sweeps": whole(1, 10_000)},
    "spikebert": {"attention_v_threshold": _POSITIVE, "attention_scale": _POSITIVE, "positions": text(100)},
    "streaming": {"lookahead": whole(0, 10_000), "training_norm": boolean},
    "snn-textcnn": {"kernel_sizes": listing(whole(1, 10_000), 1, unique=True), "channels": _SIZE},
}
_TRAINING = record(
    {},
    {
        "plan": _PLAN,
        "metrics": _METRICS,
        "data": record({}, {"name": text(), "hashes": _HASHES, "validation_size": whole(0)}),
        "teacher": record(
            {},
            {
                "metrics": _METRICS,
                "layers": whole(1, 10_000),
                "shape": mapping(number(0, 2**31)),
                "sha256": text(64),
            },
        ),
    },
)
_MANIFEST = record(
    {
        "format_version": whole(),
        "precision": one_of("fixed", "float"),
        "task": record({}),
        "record": record(
            {},
            {
                "plan": _PLAN,
                "data": record({}, {"hashes": _HASHES}),
                "source": mapping(text()),
                "calibration": record(
                    {"source": text(100_000), "inputs": whole()}, {"before": _METRICS, "after": _METRICS}
                ),
                "quantisation": record(
                    {
                        "exponent_per": text(100),
                        "layers": listing(
                            record(
                                {"layer": text(1000)},
                                dict.fromkeys(("weight_error", "rate", "rate_error"), number(0, 1e30))
                                | dict.fromkeys(("spikes", "differing_spikes", "weight_bits"), whole()),
                            )
                        ),
                    }
                ),
            },
        ),
        "files": mapping(text(64)),
    },
    {"written_by": text(1000)},
)


def check_student(checkpoint: Checkpoint) -> None:
    """That the header of a checkpoint describes a student, and the one whose tensors it holds."""
    config, labels, training = checkpoint.config, checkpoint.labels, checkpoint.training
    with _said_of("its configuration is not valid"):
        record(CONFIG | _CONFIG_OF.get(config.get("model_type", ""), {}), _OTHER_CONFIG)(config, "")
        listing(text(1000), unique=True)(labels, "labels")
        _check_tensors(config, {name: tensor.shape for name, tensor in checkpoint.tensors.items()}, len(labels) or 1)
    with _said_of("its training record does not describe the task"):
        record({"task": _TASK})(training, "training")
        if training["task"]["label_names"] != labels:
            raise ValueError("training.task.label_names are not the labels")
    with _said_of("its training record is not valid"):
        _TRAINING(training, "training")
    with _said_of("its tokenizer cannot be read"):
        check_tokenizer(checkpoint.tokenizer, config["vocab_size"])
    if "lengths" in checkpoint.activity:  # else of an older neurotool; energy asks for --data
        with _said_of("its record of the activity is not valid"):
            _check_activity(checkpoint.activity, config)


_SPIKE_CLASSIFIER = record(
    {
        "model_type": one_of("streaming"),
        "input": one_of("spikes"),
        **dict.fromkeys(("channels", "hidden_size", "num_labels"), _SIZE),
        "time_steps": whole(1, MAX_TIME_STEPS),
        "num_hidden_layers": whole(1, 10_000),
        "tau_syn": optional(number(1, 1e6)),
        "tau_mem": number(1, 1e6),
        "v_threshold": _POSITIVE,
        **dict.fromkeys(("learn_tau_syn", "learn_tau_mem", "learn_v_threshold", "per_channel"), boolean),
        "reset": one_of("hard", "soft"),
        "time_step": optional(number(1e-12, 1e12)),
    },
    closed=True,
)


def check_spike_classifier(checkpoint: Checkpoint) -> None:
    """That the header of a checkpoint describes a student that reads spikes; it compares every shape itself."""
    config, labels, training = checkpoint.config, checkpoint.labels, checkpoint.training
    with _said_of("its configuration is not valid"):
        _SPIKE_CLASSIFIER(config, "")
        listing(text(1000), 2, unique=True)(labels, "labels")
        if config["num_labels"] != len(labels):
            raise ValueError(f"num_labels is {config['num_labels']}, of {len(labels)} labels")
        if config["num_hidden_layers"] > len(checkpoint.tensors):
            raise ValueError(
                f"num_hidden_layers is {config['num_hidden_layers']}, of {len(checkpoint.tensors)} tensors"
            )
        shapes = [shape for tensor in checkpoint.tensors.values() for shape in tensor.shape]
        for name in ("channels", "hidden_size"):
            if config[name] not in shapes:
                raise ValueError(f"{name} is {config[name]}: no tensor has that width")
    with _said_of("its training record is not valid"):
        record({"task": _TASK})(training, "training")
        _TRAINING(training, "training")
        if training["task"]["label_names"] != labels:
            raise ValueError("training.task.label_names are not the labels")
    if checkpoint.tokenizer:
        raise ValueError("it has a tokenizer, and reads no text")


@contextmanager
def _said_of(part: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{part}: {error}") from error


def _check_tensors(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], labels: int) -> None:
    """What a small file could make enormous; the student compares every shape."""
    sizes = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
    for table, field in sizes.items():
        name, asked = f"embeddings.{table}_embeddings.weight", (config[field], config["hidden_size"])
        if shapes.get(name) != asked:
            raise ValueError(f"{field} and hidden_size ask for a tensor {name} {asked}, it is {shapes.get(name)}")
    rows = shapes.get("classifier.weight", ())[:1]
    if not len(config["id2label"]) == labels or rows != (labels,):
        raise ValueError(f"{labels} labels, {len(config['id2label'])} in id2label, rows of classifier.weight: {rows}")
    if config["num_hidden_layers"] > len(shapes):
        raise ValueError(f"num_hidden_layers is {config['num_hidden_layers']}, of {len(shapes)} tensors")
    if (config.get("pad_token_id") or 0) >= config["vocab_size"]:
        raise ValueError(f"pad_token_id is {config['pad_token_id']}, of {config['vocab_size']} tokens")


def _check_activity(stored: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    try:
        activity = Activity.from_dict(dict(stored))
    except DataError as error:
        raise ValueError(str(error)) from error
    steps = 1 if config.get("spikes") == "graded" else config["time_steps"]
    if activity.time_steps != steps:
        raise ValueError(f"its time_steps is {activity.time_steps}, of a window by the configuration {steps}")
    if max(activity.lengths) > config["max_position_embeddings"] + config.get("lookahead", 0):
        raise ValueError(f"it has texts of {max(activity.lengths)} tokens: the network takes fewer")


def check_manifest(manifest: Any, names: tuple[str, ...]) -> None:
    """That a bundle's manifest is one, and lists no other files than `names`."""
    _MANIFEST(manifest, "manifest")
    files = manifest["files"]
    for name in files:
        if name not in names:
            raise ValueError(f"manifest.files has {shown(name)}, which no bundle holds: {', '.join(names)}")
    for name in names:
        of_tokenizer = name in TOKENIZER_FILES
        if name not in files and (not of_tokenizer or any(other in files for other in TOKENIZER_FILES)):
            raise ValueError(f"manifest.files lacks {name}")
    if manifest["task"] or any(name in files for name in TOKENIZER_FILES):
        with _said_of("it describes no task"):
            _TASK(manifest["task"], "manifest.task")
    calibration = manifest["record"].get("calibration", {})
    if calibration.get("before", {}).keys() != calibration.get("after", {}).keys():
        raise ValueError("manifest.record.calibration has other figures before than after")


def check_network(graph: Graph, task: Mapping[str, Any], tokenizer: Mapping[str, str]) -> None:
    """That the task and the tokenizer of a bundle are those of its network."""
    if not tokenizer:
        return
    outputs = [len(node.weight) for node in graph.nodes.values() if isinstance(node, Readout)]
    labels = task["label_names"]
    if outputs and outputs[0] != (len(labels) or 1):
        raise ValueError(f"the task has {len(labels)} label_names, the network {outputs[0]} outputs")
    rows = {node.ids: len(node.weight) for node in graph.nodes.values() if isinstance(node, Embedding)}
    if "input_ids" not in rows:
        raise ValueError("it has a tokenizer, but no embedding of tokens")
    check_tokenizer(tokenizer, rows["input_ids"])


def check_tokenizer(files: Mapping[str, Any], vocabulary: int) -> None:
    """That the files are a tokenizer's whose tokens all have a row among `vocabulary`, and whose regular expressions
    end."""
    record(dict.fromkeys(TOKENIZER_FILES, text(2**28)), closed=True)(dict(files), "tokenizer")
    contents = {name: _parsed(name, files[name]) for name in TOKENIZER_FILES}
    made = contents["tokenizer.json"]
    record(
        {"model": record({}), "added_tokens": listing(record({"id": whole(0, vocabulary - 1), "content": text(1000)}))},
    )(made, "tokenizer.json")
    vocab = made["model"].get("vocab")
    if isinstance(vocab, dict):
        mapping(whole(0, vocabulary - 1), name=text(100_000))(vocab, "tokenizer.json.model.vocab")
    elif isinstance(vocab, list) and len(vocab) > vocabulary:
        raise ValueError(f"tokenizer.json has {len(vocab)} tokens, the network {vocabulary}")
    for expression in expressions({key: value for key, value in made.items() if key != "model"}):
        check_expression(expression)


def _parsed(name: str, content: str) -> dict[str, Any]:
    try:
        made = strict_json(content)
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {error}") from error
    if not isinstance(made, dict):
        raise ValueError(f"{name} is {shown(made)}: it must be a JSON object")
    return made


def try_tokenizer(tokenizer: Any, vocabulary: int, segments: int) -> None:
    """Use a tokenizer once, as later: some files are only found wanting then."""
    try:
        columns = ["a film, Ж 中 é", ""], ["x\u0301 yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy", "b"]
        # A text, and a pair, each by a template of its own.
        padded = [
            pad(tokenizer, encode(tokenizer, read, 8).tokens, 16, tensors="np") for read in (columns[1:], columns)
        ]
        ids, types = (np.stack([one[name] for one in padded]) for name in ("input_ids", "token_type_ids"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the tokenizers library raises plain Exceptions, and panics outside of them
        raise ValueError(one_line(error)[:200]) from error
    if not 0 <= ids.min() <= ids.max() < vocabulary or not 0 <= types.min() <= types.max() < segments:
        raise ValueError(f"it gives token {ids.max()} of {vocabulary}, segment {types.max()} of {segments}")
