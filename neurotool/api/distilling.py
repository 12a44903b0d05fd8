"""Training from Python: what `neurotool train` does."""

from pathlib import Path
from typing import Any

from rich.console import Console

from neurotool.api.model import Model, open_model


def distil(data: Path | str | None = None, *, output: Path | str = "model.ckpt", **options: Any) -> Model:
    """Distil a spiking student, write it to `output` and open it; its metrics are in `record["metrics"]`.

    data: folder with train and validation files; without it (and without `task`) the demo's. options: those of
    `neurotool train`, with underscores: teacher, layers, time_steps, spikes, epochs, force, …; lists as tuples.
    Progress is shown on standard error.
    Raises ConfigError for an option that does not exist or does not fit, and what training raises.
    """
    from neurotool.train.options import plan_from
    from neurotool.train.pipeline import train

    paths = {name: Path(options[name]) for name in ("run_folder",) if options.get(name) is not None}
    plan = plan_from(options | paths | {"data": None if data is None else Path(data), "output": Path(output)})
    train(plan, Console(stderr=True))
    return open_model(output)
