"""What neurotool does on a GPU: tests marked `cuda`, step times and memory against a transformers BERT of the same
shape, T at equal cost, and one distillation. benchmarks/gpu.sh runs it from a plain checkout.

    benchmarks/gpu.sh --data DIR --teacher DIR [--output DIR] [--device cpu --small]

DATA holds the folder sst2 with train and validation files; TEACHER is a BERT. Every part is a process of its own with
a time limit, and one that fails is noted and left behind; gpu.json and gpu.md (for docs/results.md) are written anew
after each. --small does the same on a tiny scale, to try the script where there is no GPU.
"""

import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import click
import torch
import transformers
from gpu_report import markdown
from step_time import build, inference, make_batch, training_step
from torch import Tensor, nn

from neurotool.checkpoint import read_checkpoint
from neurotool.files import replacing

STARTUP = 20
"""Seconds that importing torch and transformers may take; a part with less left is not begun."""
ROOT = Path(__file__).resolve().parent.parent
STUDENTS = {"bert": "BERT", "phased T=4 ternary learned": "SpikingBERT", "spikebert T=4": "SpikeBERT"}
SLOWEST = "spikebert T=4"


@dataclass(frozen=True)
class Part:
    """A process that leaves its result in a JSON file, which it writes anew with every row."""

    name: str
    seconds: int
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    shapes: dict[str, tuple[int, int, int]]
    """name -> layers, width, heads"""
    batch_size: int
    tokens: int
    steps: int
    time_steps: tuple[int, ...]
    product: int
    training: tuple[str, ...]


FULL = Scale(
    {"4 x 384": (4, 384, 12), "4 x 768": (4, 768, 12), "12 x 768": (12, 768, 12)},
    256,
    128,
    20,
    (1, 2, 4, 8, 16, 32, 64, 128),
    8192,
    ("--epochs", "10", "--layers", "4", "--spikes", "ternary", "-T", "4", "--bf16", "--max-length", "96"),
)
SMALL = Scale(
    {"2 x 32": (2, 32, 2), "2 x 64": (2, 64, 2)},
    4,
    16,
    2,
    (1, 4),
    256,
    ("--epochs", "0.02", "--layers", "1", "--teacher-epochs", "0.02", "--max-length", "16"),
)


def parts(scale: Scale) -> list[Part]:
    """Those that matter most first; together they fit eight minutes."""
    first, *others = scale.shapes
    return [
        Part("peak", 30),
        Part(f"steps {first}", 100, ("steps", first)),
        Part("tests", 100),
        Part("distillation", 150),
        Part("time steps", 30),
        *(Part(f"steps {shape}", 75, ("steps", shape)) for shape in reversed(others)),
    ]


# --- parts -----------------------------------------------------------------------------------------------------------


def peak(scale: Scale, device: torch.device) -> dict[str, Any]:
    """TFLOP/s of a large bf16 matrix product, and GB/s of a copy, counting bytes read and written."""
    n = scale.product
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    c = torch.empty_like(a)
    product = median_seconds(lambda: torch.mm(a, b, out=c), 10, device)
    copy = median_seconds(lambda: c.copy_(a), 10, device)
    return {"size": n, "bf16_tflops": 2 * n**3 / product / 1e12, "copy_gb_per_s": 2 * a.nbytes / copy / 1e9}


def tests(scale: Scale, device: torch.device, folder: Path, keep: Any) -> dict[str, Any]:
    """Outcome of each test marked cuda, as they end; with what it recorded, once all have."""
    report = folder / "tests.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-v", "-p", "no:cacheprovider", f"--junitxml={report}"]
    environment = os.environ | {"NEUROTOOL_TEST_DEVICE": device.type}
    outcomes: dict[str | None, dict[str, Any]] = {}
    with (
        (folder / "tests.log").open("w", encoding="utf-8", buffering=1) as log,
        subprocess.Popen(
            [*command, "tests/test_cuda.py"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as running,
    ):
        assert running.stdout is not None
        for line in running.stdout:
            log.write(line)
            if ended := re.match(r"\S+::(\S+) ([A-Z]{4,})", line):
                outcomes[ended[1]] = {"outcome": ended[2].lower()}
                keep({"outcomes": outcomes})
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        ill = [
            f"{kind}: {found.get('message')}" for kind in ("failure", "error", "skipped") for found in case.iter(kind)
        ]
        recorded = {p.get("name"): p.get("value") for p in case.iter("property")}
        outcomes[case.get("name")] = {"outcome": ill[0][:300] if ill else "passed", **recorded}
    return {"exit_code": running.returncode, "outcomes": outcomes}


def steps(scale: Scale, device: torch.device, shape: str, keep: Any) -> dict[str, Any]:
    """Rows of model x precision x mode, those that take the longest to begin or to run last. Compiled ones, which take
    half a minute, are of the first shape and bfloat16."""
    rows: list[dict[str, Any]] = []
    combinations = [
        *(("bfloat16", "eager", name) for name in STUDENTS if name != SLOWEST),
        *(("float32", "eager", name) for name in STUDENTS if name != SLOWEST),
    ]
    if shape == next(iter(scale.shapes)):
        combinations += [("bfloat16", "compiled", name) for name in reversed(STUDENTS) if name != SLOWEST]
        combinations += [(precision, "eager", SLOWEST) for precision in ("bfloat16", "float32")]
    for precision, mode, name in combinations:
        row: dict[str, Any] = {"model": STUDENTS[name], "precision": precision, "mode": mode}
        try:
            row |= measure_steps(scale, device, scale.shapes[shape], name, precision, mode)
        except Exception as error:  # out of memory, a compiler that fails: the other rows still count
            row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        rows.append(row)
        keep({"rows": rows})
    return {"rows": rows}


def measure_steps(
    scale: Scale, device: torch.device, shape: tuple[int, int, int], name: str, precision: str, mode: str
) -> dict[str, Any]:
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    model, optimiser, batch = make(scale, device, shape, name)
    started = time.perf_counter()
    if mode == "compiled":
        if name == "bert":
            model.compile()
        else:
            model.fuse()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def train() -> None:
        with autocast:
            loss = model.train()(**batch).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def infer() -> None:
        with autocast:
            inference(model, batch)

    train()
    infer()
    synchronise(device)
    begun = time.perf_counter() - started
    reset_peak(device)
    training = median_seconds(train, scale.steps, device)
    memory = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    inferring = median_seconds(infer, scale.steps, device)
    flops = training_flops(shape, scale)
    return {
        "train_ms": 1e3 * training,
        "infer_ms": 1e3 * inferring,
        "peak_mib": memory,
        "sentences_per_s": scale.batch_size / training,
        "tokens_per_s": scale.batch_size * scale.tokens / training,
        "tflops": flops / training / 1e12,
        "first_step_s": begun,
    }


def make(
    scale: Scale, device: torch.device, shape: tuple[int, int, int], name: str, **options: Any
) -> tuple[nn.Module, torch.optim.Optimizer, dict[str, Tensor]]:
    layers, width, heads = shape
    model = build(
        name,
        {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "num_labels": 2,
        }
        | options,
    ).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batch = {name: x.to(device) for name, x in make_batch(scale.batch_size, scale.tokens).items()}
    return model, optimiser, batch


def training_flops(shape: tuple[int, int, int], scale: Scale) -> float:
    """Of the matrix products of one training step of the encoder, padding included: 3 times the forward pass."""
    layers, width, _ = shape
    tokens = scale.batch_size * scale.tokens
    return 3 * 2 * layers * tokens * (12 * width**2 + 2 * scale.tokens * width)


def time_steps(scale: Scale, device: torch.device, keep: Any) -> dict[str, Any]:
    """A training step of the first shape at every T, in bfloat16 autocast."""
    shape, rows = next(iter(scale.shapes.values())), []
    for t in scale.time_steps:
        model, optimiser, batch = make(scale, device, shape, "phased T=4 ternary learned", time_steps=t)

        def step() -> None:
            with torch.autocast(device.type, torch.bfloat16):
                training_step(model, optimiser, batch)  # noqa: B023

        rows.append({"time_steps": t, "train_ms": 1e3 * median_seconds(step, scale.steps, device)})
        keep({"rows": rows})
    return {"rows": rows}


def distillation(scale: Scale, folder: Path, data: Path, teacher: Path) -> dict[str, Any]:
    """`neurotool train` on SST-2, with the teacher's fine-tuning; per epoch what validation says."""
    output = folder / "sst2.ckpt"
    command = [sys.executable, "-m", "neurotool", "train", "--data", data / "sst2", "--teacher", teacher]
    command += [*scale.training, "-o", output, "--run-folder", folder / "run", "--force"]
    started = time.perf_counter()
    with (folder / "distillation.log").open("w", encoding="utf-8") as log:
        subprocess.run(
            [str(part) for part in command],
            stdout=log,
            stderr=log,
            env=os.environ | {"NEUROTOOL_CACHE": str(folder / "cache")},
            check=True,
        )
    seconds = time.perf_counter() - started
    record = read_checkpoint(output).training
    (stage,) = record["stages"]
    return {
        "command": " ".join(scale.training),
        "teacher": record["teacher"]["metrics"],
        "student": record["metrics"],
        "epochs": [entry["eval_accuracy"] for entry in stage["history"] if "eval_accuracy" in entry],
        "stage_seconds": stage["seconds"],
        "seconds": seconds,
        "train_size": record["data"]["train_size"],
    }


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def median_seconds(function: Any, repeats: int, device: torch.device) -> float:
    """Of `repeats` calls after three that do not count."""
    times = []
    for _ in range(repeats + 3):
        synchronise(device)
        start = time.perf_counter()
        function()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


# --- report ---------------------------------------------------------------------------------------------------------


def environment(device: torch.device) -> dict[str, Any]:
    card = torch.cuda.get_device_properties(0) if device.type == "cuda" else None
    return {
        "card": card.name if card else platform.processor() or platform.machine(),
        "memory_gib": round(card.total_memory / 2**30, 1) if card else None,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "python": platform.python_version(),
    }


def write(file: Path, text: str) -> None:
    with replacing(file, force=True, error_type=click.ClickException) as temporary:
        temporary.write_text(text, encoding="utf-8")


def run_part(part: Part, folder: Path, seconds: float) -> dict[str, Any]:
    """Its result, as far as it came in `seconds`."""
    file = folder / "part.json"
    file.unlink(missing_ok=True)
    started = time.perf_counter()
    failed = None
    command = [sys.executable, __file__, *sys.argv[1:], "--part", ",".join(part.arguments or (part.name,))]
    running = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = running.communicate(timeout=seconds)
        if running.returncode:
            failed = (errors.strip().splitlines() or [f"exit code {running.returncode}"])[-1][:300]
    except subprocess.TimeoutExpired:
        failed = f"stopped after {seconds:.0f} s"
        os.killpg(running.pid, signal.SIGKILL)  # with what it started
        running.wait()
    result = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    result["wall_seconds"] = round(time.perf_counter() - started, 1)
    return result | ({"failed": failed} if failed else {})


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Folder that holds sst2.")
@click.option("--teacher", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of a BERT.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("results/gpu"), show_default=True)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--small", is_flag=True, help="Tiny shapes: to try the script.")
@click.option("--only", default="", help="Parts to run, comma-separated.")
@click.option("--limit", default=465.0, show_default=True, help="Seconds for everything.")
@click.option("--part", default=None, hidden=True)
def main(
    data: Path, teacher: Path, output: Path, device: str, small: bool, only: str, limit: float, part: str | None
) -> None:
    scale, target = SMALL if small else FULL, torch.device(device)
    output = output.absolute()
    output.mkdir(parents=True, exist_ok=True)

    def keep(result: dict[str, Any]) -> None:
        write(output / "part.json", json.dumps(result))

    if part is not None:
        name, *arguments = part.split(",")
        if name == "peak":
            keep(peak(scale, target))
        elif name == "tests":
            keep(tests(scale, target, output, keep))
        elif name == "steps":
            keep(steps(scale, target, arguments[0], keep))
        elif name == "time steps":
            keep(time_steps(scale, target, keep))
        else:
            keep(distillation(scale, output, data, teacher))
        return
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("torch finds no GPU here: --device cpu --small tries the script without one")
    started = time.perf_counter()
    report: dict[str, Any] = {"environment": environment(target), "parts": {}}
    for one in parts(scale):
        if only and one.name not in only.split(","):
            continue
        left = limit - (time.perf_counter() - started)
        if left < STARTUP:
            continue
        patience = 6 if small else 1
        report["parts"][one.name] = run_part(one, output, min(patience * one.seconds, left))
        found = report["parts"][one.name]
        click.echo(f"{one.name}: {found.get('failed', 'done')}, {found['wall_seconds']} s", err=True)
        write(output / "gpu.json", json.dumps(report, indent=1) + "\n")
        write(output / "gpu.md", markdown(report))
    click.echo(markdown(report))
    sys.exit(1 if any("failed" in found for found in report["parts"].values()) else 0)


if __name__ == "__main__":
    main()
