"""Training from Python: what `neurotool train` does."""

from pathlib import Path
from typing import Any

from neurotool import terminal
from neurotool.api.model import Model, open_model


def distil(data: Path | str | None = None, *, output: Path | str = "model.ckpt", **options: Any) -> Model:
    """Distil a spiking student, write it to `output` and open it; its metrics are in `record["metrics"]`.

    data: folder with train and validation files; without it (and without `task`) the demo's. options: those of
    `neurotool train`, with underscores: teacher, layers, time_steps, spikes, epochs, force, …; lists as tuples.
    Progress is shown on standard error.
    Raises ConfigError for an option that does not exist or does not fit, and what training raises.
    """
    from neurotool.train.options import OPTIONS, plan_from
    from neurotool.train.pipeline import train

    given = {**options, "data": data, "output": output}
    paths = {name: OPTIONS[name](value) for name, value in given.items() if isinstance(value, Path) and name in OPTIONS}
    paths |= {name: Path(given[name]) for name in ("data", "output", "run_folder") if isinstance(given.get(name), str)}
    plan = plan_from(given | paths)
    train(plan, terminal.console(stderr=True))
    return open_model(output)
