"""What gpu.py found, as Markdown."""

from typing import Any


def markdown(report: dict[str, Any]) -> str:
    """What goes into docs/results.md under "On a GPU"."""
    env, found = report["environment"], report["parts"]
    where = f"{env['card']}, CUDA {env['cuda']}" if env["cuda"] else f"{env['card']} (no GPU)"
    lines = [f"{where}; torch {env['torch']}, transformers {env['transformers']}, Python {env['python']}.", ""]
    peak_of = found.get("peak", {}).get("bf16_tflops")
    if peak_of:
        n, copy = found["peak"]["size"], found["peak"]["copy_gb_per_s"]
        lines += [f"A bf16 product of {n} x {n} x {n} runs at {peak_of:.0f} TFLOP/s, a copy at {copy:.0f} GB/s.", ""]
    for name, part in found.items():
        if name.startswith("steps") and part.get("rows"):
            lines += steps_table(name.removeprefix("steps "), part["rows"], peak_of)
    if rows := found.get("time steps", {}).get("rows"):
        lines += ["| T | " + " | ".join(str(row["time_steps"]) for row in rows) + " |", "|---" * (len(rows) + 1) + "|"]
        lines += ["| training step, ms | " + " | ".join(f"{row['train_ms']:.1f}" for row in rows) + " |", ""]
    if "student" in found.get("distillation", {}):
        part = found["distillation"]
        epochs = ", ".join(f"{100 * accuracy:.1f}" for accuracy in part["epochs"])
        teacher, student = (100 * part[name]["accuracy"] for name in ("teacher", "student"))
        lines += [
            f"SST-2 ({part['train_size']} sentences, `{part['command']}`, seed 42): teacher {teacher:.1f}, student "
            f"{student:.1f}; by epoch {epochs}. "
            f"The student's {len(part['epochs'])} epochs took {part['stage_seconds']:.0f} s, everything "
            f"{part['seconds']:.0f} s.",
            "",
        ]
    if "outcomes" in found.get("tests", {}):
        outcomes = found["tests"]["outcomes"]
        passed = sum(of_test["outcome"] == "passed" for of_test in outcomes.values())
        lines += [f"Tests marked `cuda`: {passed} of {len(outcomes)} passed.", ""]
    failed = [f"- {name}: {part['failed']}" for name, part in found.items() if "failed" in part]
    return "\n".join([*lines, *(["Not finished:", *failed, ""] if failed else [])])


def steps_table(shape: str, rows: list[dict[str, Any]], peak_of: float | None) -> list[str]:
    lines = [
        f"| {shape} | precision | mode | train ms | ratio | infer ms | ratio | peak MiB | ratio | sentences/s "
        "| tokens/s | of peak |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        start = f"| {row['model']} | {row['precision']} | {row['mode']} |"
        if "error" in row:
            lines.append(f"{start} {row['error'].split(':')[0]} |" + " |" * 8)
            continue
        bert = next(
            (
                r
                for r in rows
                if r["model"] == "BERT" and (r["precision"], r["mode"]) == (row["precision"], row["mode"])
            ),
            {},
        )
        cells = []
        for name in ("train_ms", "infer_ms", "peak_mib"):
            value, base = row[name], bert.get(name)
            cells += ["" if value is None else f"{value:.1f}", f"{value / base:.2f}" if value and base else ""]
        cells += [f"{row['sentences_per_s']:.0f}", f"{row['tokens_per_s']:.0f}"]
        of_peak = peak_of and row["precision"] == "bfloat16" and row["model"] != "SpikeBERT"
        cells.append(f"{row['tflops'] / peak_of:.0%}" if of_peak and peak_of else "")
        lines.append(f"{start} {' | '.join(cells)} |")
    return [*lines, ""]
