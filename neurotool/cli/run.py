"""`neurotool run`."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress

from neurotool.cli import json_option
from neurotool.cli.predict import numbered, prediction, shown, split_columns
from neurotool.cli.reading import TextInputs, TextReader, bundle_reader, read_texts
from neurotool.errors import ConfigError
from neurotool.files import check_free, replacing
from neurotool.graph import Graph, Neuron
from neurotool.lava_runtime.bundle import read_bundle
from neurotool.sentences import random_inputs, tokenised
from neurotool.texts import longest

if TYPE_CHECKING:
    from neurotool.lava_runtime.emulator import Emulation

EXAMPLES = """\b
Examples:
  neurotool run model.lava "a moving film" "a waste of time"
  neurotool run model.lava --data reviews.tsv --backend emulator --samples 500
  neurotool run model.lava "a film" --record encoder.0 --raster spikes.png

Lava runs on the CPU, one input after another: a sentence takes seconds. The emulator gives the same numbers, bit for
bit in fixed point, without Lava. A recording holds NAME.spikes (inputs, steps, tokens, width), from the first step of
the layer's own window on, NAME.potentials after the last step and NAME.messages, the last output, of every layer.
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option("--data", type=click.Path(path_type=Path), help="File or folder with labelled text.")
@click.option("--samples", type=click.IntRange(min=1), default=8, show_default=True, help="Texts of --data to run.")
@click.option(
    "--backend", type=click.Choice(["lava", "emulator"]), default="lava", show_default=True, help="What runs it."
)
@click.option("--record", multiple=True, metavar="LAYER", help="Keep what this layer does; encoder.0: all in it.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where recordings go.  [default: MODEL ending in .npz]"
)
@click.option("--raster", type=click.Path(path_type=Path), help="Draw the spikes of the first input (png, svg, pdf).")
@click.option(
    "--overflow",
    type=click.Choice(["error", "wrap", "clip"]),
    default="error",
    show_default=True,
    help="What becomes of numbers beyond 24 bits (fixed point).",
)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds after which Lava is stopped.")
@click.option("--force", is_flag=True, help="Replace output and raster.")
@json_option
def run(
    model: Path,
    texts: tuple[str, ...],
    data: Path | None,
    samples: int,
    backend: str,
    record: tuple[str, ...],
    output: Path | None,
    raster: Path | None,
    overflow: Any,
    timeout: float | None,
    force: bool,
    as_json: bool,
) -> None:
    """Run a Lava bundle on Lava or on the emulator."""
    if texts and data:
        raise ConfigError(f"--data {data}: texts are given, too; leave out one of the two")
    bundle = read_bundle(model)
    graph = bundle.graph
    if timeout is not None and backend == "emulator":
        raise ConfigError(f"--timeout {timeout:g}: only Lava is stopped after a time; leave it out")
    if overflow != "error" and not graph.fixed_point:
        raise ConfigError(f"--overflow {overflow}: {model} is not in fixed point, nothing overflows; leave it out")
    recorded, drawn = _recorded(graph, record), _drawn(graph, record, raster)
    recording = _outputs(model, record, output, raster, force)
    reader = bundle_reader(bundle, model)
    inputs = _inputs(graph, reader, texts, data, samples)
    start = time.perf_counter()
    result = _run(graph, inputs, backend, tuple(dict.fromkeys(recorded + drawn)), overflow, timeout, as_json)
    report = _report(graph, result, reader, texts, inputs) | {
        "backend": backend,
        "inputs": len(inputs.inputs),
        "source": inputs.source,
        "seconds": round(time.perf_counter() - start, 2),
    }
    if backend == "lava":
        from neurotool.lava_runtime.network import Network

        network = Network(graph)
        report |= {"processes": len(network.parts), "steps_per_input": network.time_line.steps}
    if recording:
        report["recording"] = str(recording)
        _save(recording, result, recorded, inputs, force)
    if raster:
        from neurotool.cli.raster import draw_spikes

        draw_spikes(raster, graph, {name: result.spikes[name][0] for name in drawn}, force)
        report["raster"] = str(raster)
    click.echo(json.dumps(report, ensure_ascii=False) if as_json else _text(report))


def _recorded(graph: Graph, record: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the nodes to record. Raises ConfigError."""
    names: list[str] = []
    for given in record:
        found = [name for name in graph.nodes if name == given or name.startswith(f"{given}.")]
        if not found:
            known = ", ".join(graph.of_type(Neuron))
            raise ConfigError(f"--record {given}: there is no such layer; the neuron layers are {known}")
        names += found
    return tuple(dict.fromkeys(names))


def _drawn(graph: Graph, record: tuple[str, ...], raster: Path | None) -> tuple[str, ...]:
    """Names of the neuron layers to draw: those that are recorded, or all. Raises ConfigError."""
    if raster is None:
        return ()
    layers = graph.of_type(Neuron)
    if not layers:
        raise ConfigError(f"--raster {raster}: the network has no neuron layer, and nothing spikes; leave it out")
    recorded = _recorded(graph, record)
    return tuple(name for name in layers if name in recorded) or tuple(layers)


def _outputs(
    model: Path, record: tuple[str, ...], output: Path | None, raster: Path | None, force: bool
) -> Path | None:
    """Where recordings go, None without any. Raises ConfigError or ExportError for files that cannot be written:
    before the run, which may take long.
    """
    if output and not record:
        raise ConfigError(f"-o {output}: nothing is recorded; name a layer with --record")
    recording = (output or model.with_suffix(".npz")) if record else None
    if recording:
        check_free(recording, force)
    if raster:
        from neurotool.cli.raster import check_raster

        check_raster(raster, force)
        if recording and recording.resolve() == raster.resolve():
            raise ConfigError(f"-o {output}: is the name of the raster, too; choose another")
    return recording


def _inputs(
    graph: Graph, reader: TextReader | None, texts: tuple[str, ...], data: Path | None, samples: int
) -> TextInputs:
    if reader is None:
        if texts or data:
            raise ConfigError("the bundle holds no tokenizer: leave out texts and --data, it runs on random inputs")
        return TextInputs(random_inputs(graph, samples), None, "random inputs: the bundle holds no tokenizer")
    if not texts:
        return read_texts(reader, data, samples, graph.tokens)
    tokens = longest(reader.plan, graph.tokens)
    columns = [split_columns(name, text, len(reader.task.text_columns)) for name, text in numbered(texts)]
    inputs, cut = tokenised(reader.tokenizer, columns, tokens)
    return TextInputs(inputs, None, f"given texts, {cut} cut to {tokens} tokens" if cut else "given texts")


def _run(
    graph: Graph, inputs: TextInputs, backend: str, record: tuple[str, ...], overflow: Any, timeout: Any, quiet: bool
) -> "Emulation":
    count = len(inputs.inputs)
    (batch,) = inputs.batches(count)
    if backend == "emulator":
        from neurotool.lava_runtime.emulator import Emulator

        return Emulator(graph, overflow).run(**batch, record=bool(record))
    from neurotool.lava_runtime.run import run_on_lava

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("Lava", total=count)
        arguments = {"record": record, "overflow": overflow, "timeout": timeout}
        return run_on_lava(graph, **batch, **arguments, progress=lambda done: bar.update(task, completed=done))


def _report(
    graph: Graph, result: "Emulation", reader: TextReader | None, texts: tuple[str, ...], inputs: TextInputs
) -> dict[str, Any]:
    """Predictions, or logits without a task, and metrics where there are labels."""
    if result.logits is None:
        return {"logits": None}
    if reader is None:
        return {"logits": result.logits.tolist()}
    names = texts or [None] * len(inputs.inputs)
    report: dict[str, Any] = {
        "predictions": [prediction(reader.task, *one) for one in zip(names, result.logits, strict=True)]
    }
    if inputs.labels is not None:
        from neurotool.tasks import compute_metrics

        report["metrics"] = compute_metrics(reader.task, result.logits, inputs.labels)
    return report


def _save(path: Path, result: "Emulation", record: tuple[str, ...], inputs: TextInputs, force: bool) -> None:
    arrays = {
        f"{name}.{kind}": getattr(result, kind)[name]
        for name in record
        for kind in ("spikes", "potentials", "messages")
        if name in getattr(result, kind)
    }
    if "attention_mask" in inputs.inputs[0]:
        arrays["attention_mask"] = np.stack([one["attention_mask"] for one in inputs.inputs])
    with replacing(path, force) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _text(report: dict[str, Any]) -> str:
    lines: list[str] = []
    if report["source"].startswith("given"):
        lines += map(shown, report.get("predictions", ()))
    if "logits" in report and report["logits"] is None:
        lines.append("the network has no readout and predicts nothing; --record LAYER keeps what a layer sends")
    elif "logits" in report:
        lines += ["logits " + "  ".join(f"{value:.4g}" for value in one) for one in report["logits"]]
    lines += [f"{name}: {value:.4f}" for name, value in report.get("metrics", {}).items()]
    count = "1 input" if report["inputs"] == 1 else f"{report['inputs']} inputs"
    ran = f"{count} on {report['backend']} in {report['seconds']} s ({report['source']})"
    if "processes" in report:
        ran += f", {report['processes']} processes, {report['steps_per_input']} steps an input"
    lines.append(ran)
    lines += [f"wrote {report[key]}" for key in ("recording", "raster") if key in report]
    return "\n".join(lines)
