"""run.toml: the options of a training run in one file, which `--config` reads and every run leaves in its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from neurotool.errors import ConfigError, one_line
from neurotool.files import replacing
from neurotool.train.options import check_option

NAME = "run.toml"
NOT_REPEATED = ("resume", "force")
"""Options that are about what an earlier run left."""


def read_config(path: Path) -> dict[str, Any]:
    """Options by name, with underscores. Paths in it are relative to the working directory, as on the command line.

    Raises ConfigError: no such file, no TOML, an unknown option or a value of the wrong type, naming it.
    """
    try:
        content = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        if isinstance(error, FileNotFoundError):
            raise ConfigError(f"{path}: no such file; give the run.toml of a run, in its folder") from error
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise ConfigError(f"{path}: cannot be read as TOML: {reason}") from error
    options = {name.replace("-", "_"): value for name, value in content.items()}
    for name, value in options.items():
        try:
            check_option(name, value)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
    return options


def write_config(path: Path, options: Mapping[str, Any]) -> None:
    """Raises ConfigError where it cannot be written."""
    document = tomlkit.document()
    document.add(tomlkit.comment("What this run was told; `neurotool train --config run.toml` repeats it."))
    for name, value in sorted(options.items()):
        if name not in NOT_REPEATED:
            document.add(name.replace("_", "-"), _plain(value))
    with replacing(path, force=True, error_type=ConfigError) as temporary:
        temporary.write_text(tomlkit.dumps(document), encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return ["-" if item is None else item for item in value]
    return str(value) if isinstance(value, Path) else value
