"""Writing a model in another format, and what was written."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from neurotool import files
from neurotool.api.lowering import Quantisation, make_bundle
from neurotool.api.model import NOTHING, Model, open_model
from neurotool.api.vectors import check_vectors, write_vectors
from neurotool.errors import ConfigError, GraphError
from neurotool.graph import Graph
from neurotool.graph.graded import graded
from neurotool.inputs import Given

LOWERED = ("lava", "netx")
"""Targets of integers: weights are quantised and calibrated."""
MESSAGES = ("spikes", "graded")
TARGETS = ("nir", *LOWERED, "dot", "svg")


def export(
    model: Model,
    path: Path | None = None,
    target: str = "nir",
    *,
    calibration: Path | str | None = None,
    samples: int = 128,
    given: Given = NOTHING,
    precision: str = "fixed",
    per_layer: bool = False,
    softmax: str = "polynomial",
    precise: bool = False,
    chip: str | None = None,
    part: str = "",
    messages: str = "spikes",
    for_tool: str | None = None,
    with_inputs: int | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write `model`; returns what was written: output, target, bytes, nodes, and what quantisation and fit found.

    path: by default the model's with the target's ending. target: nir, lava, netx, dot or svg. calibration: text to
    calibrate on (lava, netx), by default `samples` of the validation data; given: what else, for a network without
    text. precision: fixed, or float for a bundle of real numbers; per_layer: one weight exponent a layer; softmax:
    polynomial or shift; precise: softmax, norm and GELU as exact as messages of 24 bits can be. chip: report how the
    network fits it. part: draw only the nodes of this name (dot, svg).
    messages: spikes, or graded, one with a count for each window of T steps, with the same logits.
    for_tool: a .nir file in the units and by the rules of that tool (nir). with_inputs: so many inputs, those of
    `calibration` or `given`, and what every layer sends on them, in files beside it (nir, lava). force: replace output.
    Raises ConfigError for options that do not fit the target, ExportError or BundleError where it cannot be written.
    """
    check_options(
        target, calibration or given.source or None, precision, per_layer, softmax, chip, part, with_inputs, precise
    )
    if messages not in MESSAGES:
        raise ConfigError(f"messages {messages!r}: choose one of {', '.join(MESSAGES)}")
    if messages == "graded":
        try:
            model = replace(model, graph=graded(model.graph))
        except GraphError as error:
            raise ConfigError(f"--messages graded: {model.path}: {error}") from error
    path = path or model.path.with_suffix(f".{'hdf5' if target == 'netx' else target}")
    data = None if calibration is None else Path(calibration)
    if for_tool is not None and target != "nir":
        raise ConfigError(f"--for {for_tool}: tools read .nir files; leave out --target {target}")
    if with_inputs is not None:
        check_vectors(model, path, force)
        vectors = model.samples(data, with_inputs, given).first(with_inputs)  # before anything is written
    report: dict[str, Any] = {"output": str(path), "target": target}
    if target in LOWERED:
        if target == "netx":  # it holds layers that read spikes
            given = replace(given, kind="spikes")
        how = Quantisation(precision == "fixed", per_layer, softmax == "shift", precise, data, samples, given)
        report |= _lowered(model, path, target, how, chip, force)
    elif for_tool is not None:
        report |= _for_tool(model.graph, path, for_tool, force)
    else:
        report |= _WRITERS[target](model.graph, path, part, force)
    if with_inputs is not None:
        report |= {"vectors": write_vectors(_written(model, path, for_tool), vectors, force)}
    return report


def _lowered(model: Model, path: Path, target: str, how: Quantisation, chip: str | None, force: bool) -> dict[str, Any]:
    from neurotool.export.chip import load_chip
    from neurotool.export.fit import fit_report
    from neurotool.lava_runtime.bundle import check_free, write_bundle

    limits = load_chip(chip) if chip else None
    (check_free if target == "lava" else files.check_free)(path, force)  # before the work
    bundle = make_bundle(model, how)
    if target == "lava":
        write_bundle(path, bundle, force)
    else:
        from neurotool.export.netx import write_netx

        write_netx(bundle.graph, path, force)
    fit = {"fit": fit_report(bundle.graph, limits, bundle.max_length)} if limits else {}
    return {**_described(bundle.graph, path), "precision": bundle.precision} | bundle.record | fit


def _for_tool(graph: Graph, path: Path, tool: str, force: bool) -> dict[str, Any]:
    from neurotool.export.nir import write_for

    told = write_for(graph, path, tool, force=force)
    return _described(graph, path) | {"told": told}


def _written(model: Model, path: Path, tool: str | None) -> Model:
    """What was written, as whoever reads it computes it."""
    if tool is None:
        return open_model(path)
    from neurotool.export.for_tool import as_written

    return Model(path, "NIR file", as_written(model.graph, tool))


def check_options(
    target: str,
    calibration: Path | str | None,
    precision: str,
    per_layer: bool,
    softmax: str,
    chip: str | None,
    part: str,
    with_inputs: int | None = None,
    precise: bool = False,
) -> None:
    """Raises ConfigError for options of `export` that do not fit the target or each other."""
    if target not in TARGETS:
        raise ConfigError(f"target {target!r}: choose one of {', '.join(TARGETS)}")
    if part and target not in ("dot", "svg"):
        raise ConfigError(f"--part {part}: only drawings have parts; use --target dot or svg")
    if with_inputs is not None and target not in ("nir", "lava"):
        raise ConfigError(
            f"--with-inputs {with_inputs}: they go with a .nir file or a bundle; leave out --target {target}"
        )
    if with_inputs is not None and target == "nir":
        calibration = None  # it says which inputs these are
    integers = calibration is not None or per_layer or softmax != "polynomial" or precise
    if target not in LOWERED and (integers or chip or precision != "fixed"):
        options = "--data, --input, --per-layer, --softmax, --precise, --precision and --chip"
        raise ConfigError(f"{options} are for --target lava or netx, not {target}: leave them out")
    if (target == "netx" or chip) and precision != "fixed":
        raise ConfigError(f"--precision {precision}: netx and chips hold integers; use --precision fixed")
    if target == "netx" and (softmax != "polynomial" or precise):
        raise ConfigError("--softmax, --precise: netx holds no softmax, norm or GELU; leave them out")
    if integers and precision != "fixed":
        raise ConfigError(
            f"--precision {precision}: --data, --input, --per-layer, --softmax and --precise are about integers; leave "
            "them out"
        )


def _nir(graph: Graph, path: Path, part: str, force: bool) -> dict[str, Any]:
    from neurotool.export.nir import write_nir
    from neurotool.export.to_nir import beyond, expressible

    write_nir(graph, path, force=force)
    return _described(graph, path) | {"standard_nodes": len(expressible(graph)), "beyond_nir": beyond(graph)}


def _dot(graph: Graph, path: Path, part: str, force: bool) -> dict[str, Any]:
    from neurotool.export.drawing import to_dot

    to_dot(graph, path, part, force)
    return _described(graph, path)


def _svg(graph: Graph, path: Path, part: str, force: bool) -> dict[str, Any]:
    from neurotool.export.drawing import draw

    draw(graph, path, part, force)
    return _described(graph, path)


_WRITERS: dict[str, Callable[[Graph, Path, str, bool], dict[str, Any]]] = {"nir": _nir, "dot": _dot, "svg": _svg}


def _described(graph: Graph, path: Path) -> dict[str, Any]:
    written = path.iterdir() if path.is_dir() else [path]
    return {
        "bytes": sum(file.stat().st_size for file in written),
        "weight_bytes": sum(array.nbytes for array in graph.to_arrays()[1].values()),
        "nodes": len(graph.nodes),
        "time_steps": graph.time_steps,
        "schedule": graph.schedule,
    }
