"""`neurotool run`."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.progress import Progress

from neurotool import terminal
from neurotool.api.reading import TextReader
from neurotool.cli.numbers import SAMPLES, SECONDS
from neurotool.cli.options import (
    PATH,
    check_not_read,
    check_result,
    executor_option,
    input_options,
    json_option,
    open_file,
    opening_options,
    time_steps_option,
)
from neurotool.cli.predict import shown
from neurotool.errors import ConfigError
from neurotool.graph import Neuron
from neurotool.inputs import time_step
from neurotool.recordings import check_writable, write_recording

if TYPE_CHECKING:
    from neurotool.api.model import Model
    from neurotool.api.reading import ModelInputs
    from neurotool.executor import Run
    from neurotool.inputs import Given

EXAMPLES = """\b
Examples:
  neurotool run model.lava "a moving film" "a waste of time"
  neurotool run model.lava --data reviews.tsv --executor emulator
  neurotool run model.ckpt "a film" --record encoder.0 --raster spikes.png
  neurotool run model.nir --input spikes.npz -o spikes_out.npz
  neurotool run other.nir --from norse --input events.csv -T 100 -o out.h5
  neurotool run model.nir --part encoder.0 --input embedding.npy -o out.npz
  neurotool run model.lava --tokenizer model.ckpt --stream "a moving film"

Lava runs on the CPU, one input after another: a sentence takes seconds. The emulator gives the same numbers, bit for
bit in fixed point, without Lava. --stream prints, for a network that takes its tokens in time, the answer after each
token, its spikes, the events at synapses and how long it took; without texts, of words on standard input as they come
(Lava begins at the end of a line). --input is a .npz with an array for each Input of the network, or the .npy of its
only one, (inputs, [steps,] [tokens,] width); NIRData (.h5); or events, a .csv with columns time (in steps), neuron and,
if needed, sample, node, value. A recording holds NAME.spikes (inputs, steps, tokens, width), from the first step of the
layer's own window on, NAME.potentials after the last step and NAME.messages, the last output, of every layer; and
NAME.values, one a step, of integrators and of outputs that are no neurons. As .h5 and .csv: what has a value a step.
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", type=PATH)
@click.argument("texts", nargs=-1)
@click.option("--data", type=PATH, help="File or folder with labelled text.")
@click.option("--samples", type=SAMPLES, default=8, show_default=True, help="Texts of --data to run.")
@executor_option("lava for a bundle, torch for a .ckpt, interpreter for a .nir", "--executor", "--backend")
@click.option("--stream", is_flag=True, help="Token by token, with the answer after each (emulator, lava).")
@click.option("--part", help="Run these nodes alone: FIRST or FIRST:LAST, names or groups such as encoder.0.")
@click.option("--record", multiple=True, metavar="LAYER", help="Keep what this layer does; encoder.0: all in it.")
@click.option("-o", "--output", type=PATH, help="Where recordings go.  [default: MODEL ending in .npz]")
@click.option("--raster", type=PATH, help="Draw the spikes of the first input (png, svg, pdf).")
@click.option(
    "--overflow",
    type=click.Choice(["error", "wrap", "clip"]),
    default="error",
    show_default=True,
    help="What becomes of numbers beyond 24 bits (fixed point).",
)
@click.option("--timeout", type=SECONDS, help="Seconds after which Lava is stopped.")
@click.option("--force", is_flag=True, help="Replace output and raster.")
@input_options
@opening_options
@time_steps_option
@json_option
def run(
    model: Path,
    texts: tuple[str, ...],
    data: Path | None,
    samples: int,
    executor: str | None,
    stream: bool,
    part: str | None,
    record: tuple[str, ...],
    output: Path | None,
    raster: Path | None,
    overflow: Any,
    timeout: float | None,
    force: bool,
    as_json: bool,
    given: "Given",
    **opening: Any,
) -> None:
    """Run a model on any executor: texts or arrays in, predictions and spikes out."""
    sources = {"texts": bool(texts), f"--data {data}": data is not None, f"--input {given.source}": bool(given.files)}
    if len(found := [name for name, there in sources.items() if there]) > 1:
        are = "are" if found[0] == "texts" else "is"
        raise ConfigError(f"{found[1]}: {found[0]} {are} given, too; leave out one of the two")
    for written in filter(None, (output, raster)):
        check_not_read(written)
    opened = open_file(model, given=given, **opening)
    if stream:
        surplus = {"--part": part, "--record": record, "-o": output, "--raster": raster, **sources, "texts": False}
        if name := next((name for name, there in surplus.items() if there), None):
            raise ConfigError(
                f"--stream: {name} is given, too: it prints what each token gives; leave out one of the two"
            )
        from neurotool.cli import stream as streaming

        streaming.stream(opened, texts, executor or "emulator", as_json, overflow, timeout)
        return
    executor = executor or ("lava" if opened.kind == "bundle" else opened.default_executor)
    if part:
        opened = opened.part(*part.split(":", 1))
    everything = bool(given.files or given.random) and output is not None and not record
    graph = opened.graph
    recorded = (*graph.of_type(Neuron), *graph.analog) if everything else opened.named(record)
    drawn = _drawn(opened, recorded, raster)
    recording = _outputs(model, record or recorded, output, raster, force)
    settings = {"overflow": overflow, "timeout": timeout}
    opened.executor(executor, **settings)  # refuses what does not fit before any work
    opened, inputs = _ready(opened, texts, data, samples, given)
    start = time.perf_counter()
    with _progress(len(inputs.inputs), as_json) as progress:
        names = tuple(dict.fromkeys(recorded + drawn))
        result = opened.run(inputs, executor, names, progress=progress, **settings)
    report = _report(opened, result, texts, inputs) | {
        "backend": executor,
        "inputs": len(inputs.inputs),
        "source": inputs.source,
        "seconds": round(time.perf_counter() - start, 2),
    }
    if executor == "lava":
        from neurotool.lava_runtime.network import Network

        network = Network(opened.graph)
        report |= {"processes": len(network.parts), "steps_per_input": network.time_line.steps}
    if recording:
        report["recording"] = str(recording)
        kept = _recording(result, recorded, inputs, bool(given.files))
        write_recording(recording, kept, time_step(opened.graph), force)
    if raster:
        from neurotool.api.raster import draw_spikes

        draw_spikes(raster, opened.graph, {name: result.spikes[name][0] for name in drawn}, force)
        report["raster"] = str(raster)
    click.echo(json.dumps(report, ensure_ascii=False) if as_json else _text(report))


_RECORDED = {"spikes": "spikes", "potentials": "potentials", "messages": "messages", "analog": "values"}
"""Of a Run, and what a recording calls it."""


def _drawn(model: "Model", recorded: tuple[str, ...], raster: Path | None) -> tuple[str, ...]:
    """Names of the neuron layers to draw: those that are recorded, or all. Raises ConfigError."""
    if raster is None:
        return ()
    layers = model.graph.of_type(Neuron)
    if not layers:
        raise ConfigError(f"--raster {raster}: the network has no neuron layer, and nothing spikes; leave it out")
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
        check_result(recording, force)
    if raster:
        from neurotool.api.raster import check_raster

        check_raster(raster, force)
        if recording and recording.resolve() == raster.resolve():
            raise ConfigError(f"-o {output}: is the name of the raster, too; choose another")
    if recording:
        check_writable(recording, "-o")
    return recording


def _ready(
    model: "Model", texts: tuple[str, ...], data: Path | None, samples: int, given: "Given"
) -> "tuple[Model, ModelInputs]":
    return (model, model.reading().given(texts)) if texts else model.ready(data, samples, given)


@contextmanager
def _progress(inputs: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    console = terminal.console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("running", total=inputs)
        yield lambda done: bar.update(task, completed=done)


def _report(model: "Model", result: "Run", texts: tuple[str, ...], inputs: "ModelInputs") -> dict[str, Any]:
    """Predictions, or logits without a task, and metrics where there are labels."""
    if result.logits is None:
        return {"logits": None}
    if model.reader is None:
        return {"logits": result.logits.tolist()}
    names = texts or [None] * len(inputs.inputs)
    report: dict[str, Any] = {
        "predictions": [model.reader.prediction(*one) for one in zip(names, result.logits, strict=True)]
    }
    if inputs.labels is None and not isinstance(model.reader, TextReader):
        report["predictions"] = [{"input": i} | one for i, one in enumerate(report["predictions"])]
    if inputs.labels is not None:
        from neurotool.tasks import compute_metrics

        report["metrics"] = compute_metrics(model.reader.task, result.logits, inputs.labels)
    return report


def _recording(result: "Run", record: tuple[str, ...], inputs: "ModelInputs", logits: bool) -> dict[str, np.ndarray]:
    arrays = {
        f"{name}.{_RECORDED[kind]}": getattr(result, kind)[name]
        for name in record
        for kind in _RECORDED
        if name in getattr(result, kind)
    }
    if "attention_mask" in inputs.inputs[0]:
        arrays["attention_mask"] = np.stack([one["attention_mask"] for one in inputs.inputs])
    return arrays | ({"logits": result.logits} if logits and result.logits is not None else {})


def _text(report: dict[str, Any]) -> str:
    lines: list[str] = []
    predictions = report.get("predictions", ())
    if report["source"].startswith("given") or any("input" in one for one in predictions):
        lines += map(shown, predictions)
    if "logits" in report and report["logits"] is None:
        kept = "" if "recording" in report else "; --record LAYER keeps what a layer sends"
        lines.append(f"the network has no readout and predicts nothing{kept}")
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
