"""What a model file is, without running it: everything that its headers say."""

from pathlib import Path
from typing import Any

import numpy as np

from neurotool.api.model import is_nir, refuse_conventions
from neurotool.graph import Embedding, Graph, Input, Neuron, Readout
from neurotool.graph.graded import levels
from neurotool.graph.nodes import own_axes
from neurotool.streams import steps_per_token


def describe(path: Path | str, **conventions: Any) -> dict[str, Any]:
    """Kind, network, sizes, task, teacher, metrics and versions of a .ckpt, .nir or Lava bundle, as JSON values.

    conventions: of a foreign .nir file, as `open_model` takes them. What a file does not say is left out.
    Raises what opening it raises.
    """
    path = Path(path)
    if path.is_dir() or is_nir(path):
        from neurotool.api.model import open_model

        model = open_model(path, **conventions)
        about = {"file": str(path), "kind": model.kind, "bytes": _size(path)} | _network(model.graph)
        return about | ({} if model.bundle is None else _bundle(model.bundle))
    from neurotool.checkpoint import read_checkpoint

    refuse_conventions(path, conventions)
    checkpoint = read_checkpoint(path)
    return {"file": str(path), "kind": "checkpoint", "bytes": _size(path)} | _checkpoint(checkpoint)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))


def _network(graph: Graph) -> dict[str, Any]:
    """Of a layer graph."""
    neurons = [node for node in graph.nodes.values() if isinstance(node, Neuron)]
    about: dict[str, Any] = {"student": graph.metadata.get("model_type")} if "model_type" in graph.metadata else {}
    about |= {"nodes": len(graph.nodes), "neuron_layers": len(neurons)}
    if neurons:
        about |= {"time_steps": levels(graph) or graph.time_steps, "schedule": graph.schedule}
        about |= {} if steps_per_token(graph) is None else {"steps_per_token": steps_per_token(graph)}
        about["spikes"] = "/".join(sorted({node.spikes for node in neurons}))
        about["reset"] = "/".join(sorted({node.reset for node in neurons}))
        leaks = [np.asarray(node.leak) for node in neurons]
        about["leak"] = sorted({float(bound) for leak in leaks for bound in (leak.min(), leak.max())})
    about |= {
        "weights": sum(array.size for array in graph.to_arrays()[1].values()),
        "numbers": "integers" if graph.fixed_point else "real",
        **({"tokens": graph.tokens} if graph.has_tokens else {}),
        "reads": [*(["text tokens"] if graph.of_type(Embedding) else []), *_inputs(graph)],
    }
    if readouts := [node for node in graph.nodes.values() if isinstance(node, Readout)]:
        about["outputs"] = len(readouts[0].weight)
    return about | ({"labels": list(graph.labels)} if graph.labels else {})


def _inputs(graph: Graph) -> list[str]:
    sizes = {name: " x ".join(map(str, own_axes(graph.nodes[name].shape()))) for name in graph.of_type(Input)}
    return [f"{name} ({size} wide)" if graph.has_tokens else f"{name} ({size})" for name, size in sizes.items()]


def _bundle(bundle: Any) -> dict[str, Any]:
    record, task = bundle.record, bundle.task
    about = {"task": task["name"], "labels": list(task["label_names"])} if task else {}
    about |= {"made_from": record["source"]["name"]} if "source" in record else {}
    about |= {"max_length": bundle.max_length}
    if calibration := record.get("calibration"):
        about["calibrated_on"] = f"{calibration['inputs']} inputs: {calibration['source']}"
        about |= {"metrics": calibration["after"]} if "after" in calibration else {}
    return about


SETTINGS = {
    "student": "model_type",
    "reads": "input",
    "channels": "channels",
    "layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "time_steps": "time_steps",
    "lookahead": "lookahead",
    "taps": "taps",
    "schedule": "schedule",
    "spikes": "spikes",
    "leak": "leak",
    "reset": "reset",
    "tokens": "max_position_embeddings",
    "vocabulary": "vocab_size",
}
MEANINGLESS = {
    "ann": ("time_steps", "schedule", "spikes", "leak", "reset"),
    "snn-textcnn": ("layers", "heads", "intermediate_size"),
    "streaming": ("heads", "spikes", "leak"),
}
"""What the configuration of a kind of student has and does not use (`lacks` of its class, which is slow to import)."""


def _checkpoint(checkpoint: Any) -> dict[str, Any]:
    config, training = checkpoint.config, checkpoint.training
    without = MEANINGLESS.get(config["model_type"], ())
    about = {name: config[key] for name, key in SETTINGS.items() if key in config and name not in without}
    about["weights"] = sum(tensor.size for tensor in checkpoint.tensors.values())
    plan, task, teacher = (training.get(name, {}) for name in ("plan", "task", "teacher"))
    about |= {name: plan[name] for name in ("max_length",) if name in plan}
    about |= {"task": task["name"]} if "name" in task else {}
    about["labels"] = checkpoint.labels
    about |= {"teacher": teacher["name"]} if "name" in teacher else {}
    about |= {"teacher_metrics": teacher["metrics"]} if "metrics" in teacher else {}
    about |= {"metrics": training["metrics"]} if "metrics" in training else {}
    activity = checkpoint.activity
    about |= {"mean_spiking_rate": activity["mean_rate"]} if activity.get("layers") and "mean_rate" in activity else {}
    about |= {"data": training["data"]} if "data" in training else {}
    about |= {name: training[name] for name in ("seed", "seconds", "versions") if name in training}
    return about
