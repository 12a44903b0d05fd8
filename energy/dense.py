"""Dense BERT-like networks as layer graphs, from their configurations alone: no weights are needed to count."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from neurotool.activity import Activity
from neurotool.energy.counts import Counts, count
from neurotool.errors import ConfigError
from neurotool.graph import (
    Add,
    Embedding,
    Gelu,
    Graph,
    GraphBuilder,
    LayerNorm,
    Linear,
    MatMul,
    MeanPool,
    Readout,
    Scale,
    Softmax,
)

_KNOWN = json.loads((Path(__file__).parent / "dense.json").read_text("utf-8"))
# DistilBERT's names for the same sizes.
_SYNONYMS = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}


def dense_graph(config: dict[str, Any], labels: int = 2) -> Graph:
    """A BERT or DistilBERT classifier of this configuration. Weights are shapes only: they take no memory.

    Raises ConfigError for another kind of network or a missing size.
    """
    kind = config.get("model_type", "bert")
    if kind not in ("bert", "distilbert"):
        raise ConfigError(f"model_type is {kind!r}: dense networks are counted for bert and distilbert")
    width, layers, heads, inner = (_size(config, name, short) for name, short in _SYNONYMS.items())
    positions = _size({"max_position_embeddings": 512} | config, "max_position_embeddings")
    vocabulary = _size({"vocab_size": 30522} | config, "vocab_size")
    build = GraphBuilder()
    word = build.add("embedding.word", Embedding(_shape(vocabulary, width)))
    position = build.add("embedding.position", Embedding(_shape(positions, width), "position_ids"))
    x = build.add("embedding.add", Add(), word, position)
    if kind == "bert":
        types = Embedding(_shape(config.get("type_vocab_size", 2), width), "token_type_ids")
        x = build.add("embedding.word_and_type", Add(), x, build.add("embedding.token_type", types))
    x = build.add("embedding.norm", _norm(width), x)
    for i in range(layers):
        x = _encoder_layer(build, f"encoder.{i}", x, width, heads, inner)
    # Pooler and classifier read one vector each, so together they are one matrix of width + labels rows.
    pooled = build.add("pool", MeanPool("first"), x)
    build.add("pooler_and_classifier", Readout(_shape(width + labels, width), _shape(width + labels)), pooled)
    return build.build(time_steps=1, schedule="phased", tokens=positions, metadata={"model_type": kind})


def _size(config: dict[str, Any], name: str, synonym: str = "") -> int:
    size = config.get(name, config.get(synonym))
    if type(size) is not int or size < 1:
        raise ConfigError(f"{name} is {size!r}: the configuration must give a whole number of at least 1")
    return size


def _encoder_layer(build: GraphBuilder, name: str, x: str, width: int, heads: int, inner: int) -> str:
    def linear(part: str, source: str, fan_in: int, fan_out: int) -> str:
        return build.add(f"{name}.{part}.linear", Linear(_shape(fan_out, fan_in), _shape(fan_out)), source)

    def residual_norm(part: str, source: str, residual: str) -> str:
        added = build.add(f"{name}.{part}.add", Add(), source, residual)
        return build.add(f"{name}.{part}.norm", _norm(width), added)

    query, key, value = (linear(part, x, width, width) for part in ("query", "key", "value"))
    scores = build.add(f"{name}.scores", MatMul(heads, transpose_b=True), query, key)
    scaled = build.add(f"{name}.scores.scale", Scale((width // heads) ** -0.5), scores)
    probabilities = build.add(f"{name}.softmax", Softmax(), scaled)
    context = build.add(f"{name}.context", MatMul(heads), probabilities, value)
    x = residual_norm("self_output", linear("self_output", context, width, width), x)
    wide = build.add(f"{name}.intermediate.gelu", Gelu(), linear("intermediate", x, width, inner))
    return residual_norm("output", linear("output", wide, inner, width), x)


def _shape(*shape: int) -> np.ndarray:
    return np.broadcast_to(np.float32(1), shape)


def _norm(width: int) -> LayerNorm:
    return LayerNorm(_shape(width), _shape(width))


def dense_counts(graph: Graph, activity: Activity) -> Counts:
    """Operations of a graph without spikes on texts as long as those of `activity`; in `dense` of every node."""
    return count(graph, Activity(1, 1, activity.lengths), {})


def named_config(name: str) -> dict[str, Any]:
    """bert-base, tinybert-4, distilbert, or the path of a config.json or of the folder that holds it.

    Raises ConfigError.
    """
    if name in _KNOWN:
        return dict(_KNOWN[name])
    path = Path(name)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(
            f"{name}: no such dense network; choose {', '.join(_KNOWN)}, or give the path of a config.json"
        )
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a configuration: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: not a configuration: a JSON {type(config).__name__}, not an object")
    return config


def teacher_config(student: dict[str, Any], training: dict[str, Any]) -> dict[str, Any] | None:
    """The teacher's configuration from a checkpoint's student configuration and training record; None if not known.

    Records without the teacher's shape are of students with the teacher's widths, unless training was told otherwise.
    """
    teacher, changed = training.get("teacher", {}), training.get("plan", {}).get("student", {})
    if "shape" in teacher:
        return dict(teacher["shape"]) | {"model_type": "bert"}
    if "layers" not in teacher or {"hidden_size", "intermediate_size", "num_attention_heads"} & set(changed):
        return None
    return student | {"model_type": "bert", "num_hidden_layers": teacher["layers"]}
