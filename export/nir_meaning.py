"""What one NIR file means: from what the caller says, what its metadata and numbers say, and its tool's rules."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np

from neurotool.errors import ConfigError, GraphError
from neurotool.export.conventions import TOOLS, Conventions, Rules
from neurotool.export.nir_laws import Numbers


@dataclass(frozen=True)
class Meaning:
    """What a file means, with nothing left open. warnings: where what is told and what the file says disagree."""

    rules: Rules
    time_steps: int
    given: Conventions
    warnings: tuple[str, ...] = ()


_NIR_TEXT = Rules("", "", None, None)
_SAID: dict[str, tuple[str, type]] = {"reset": ("reset", str), "dt": ("time_step", float), "fires": ("fires", str)}
_TIMED = (nir.LIF, nir.CubaLIF, nir.LI, nir.CubaLI, nir.Delay)
_FIRING = (nir.IF, nir.LIF, nir.CubaLIF)


def meaning(given: Conventions, metadata: Mapping[str, Any], nodes: Mapping[str, nir.NIRNode]) -> Meaning:
    """From what the caller says, else the file's metadata (reset, dt, time_steps, fires, or a tool's name), else the
    tool's rules.

    Raises GraphError where something is open still; one message names all of it.
    """
    said = _said(metadata)
    steps_said = said.pop("time_steps", None)
    time_steps = given.time_steps or steps_said
    named = tool_named(metadata)
    tool = given.tool or named
    told = {name: value for name in ("reset", "time_step", "fires", "spikes", "membrane", "lowest")
            if (value := getattr(given, name)) is not None}  # fmt: skip
    rules = replace(TOOLS[tool] if tool else _NIR_TEXT, **said | told)
    if "reset" in said | told:
        rules = replace(rules, cuba_reset=None)
    by_default = ""
    if tool == "norse" and "time_step" not in said | told and _divided(nodes, rules.time_step):
        rules = replace(rules, time_step=1e-3 * 1e-3)
        by_default = (
            "its time constants are below norse's dt, as to_nir writes them without dt=1.0: the time step is 1e-06"
        )
    numbers = Numbers(nodes)
    _ask(rules, time_steps, tool, told, nodes, numbers)
    assert time_steps is not None
    warnings = [by_default, numbers.contradicts(tool, rules.time_step, rules.unit_charge)]
    if given.tool and named and named != given.tool:
        warnings.append(f"told --from {given.tool}, but the file's metadata name {named}")
    warnings += [
        f"told {name} {told[name]}, but the file's metadata say {said[name]}"
        for name in said
        if name in told and said[name] != told[name]
    ]
    return Meaning(rules, time_steps, given, tuple(filter(None, warnings)))


def _said(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the graph's metadata say, by the names of Conventions. Raises GraphError for what they cannot mean."""
    try:
        said = {name: kind(metadata[key]) for key, (name, kind) in _SAID.items() if key in metadata}
        if "time_steps" in metadata:
            said["time_steps"] = steps = int(metadata["time_steps"])
            if steps != float(metadata["time_steps"]):
                raise ValueError(f"time_steps is {metadata['time_steps']:g}: a whole number is wanted")
        Conventions(**said).check()
    except (TypeError, ValueError, OverflowError, ConfigError) as error:
        raise GraphError(f"the file's metadata cannot be used: {error}") from error
    return said


def tool_named(metadata: Mapping[str, Any]) -> str | None:
    """The tool that the texts in the graph's metadata name, as a word; None where they name several."""
    texts = " ".join(str(value).lower() for value in metadata.values() if isinstance(value, str))
    named = [tool for tool in TOOLS if tool != "nir" and re.search(rf"(?<![\w-]){tool}(?!\w)", texts)]
    return named[0] if len(named) == 1 else None


def _divided(nodes: Mapping[str, nir.NIRNode], dt: float | None) -> bool:
    """Whether norse's to_nir divided the time constants by 1000, as it does unless it is called with dt=1.0."""
    constants = (getattr(node, name, None) for node in nodes.values() for name in ("tau", "tau_mem", "tau_syn"))
    taus = [float(np.max(tau)) for tau in constants if tau is not None]
    return bool(dt and taus) and max(taus) < (dt or 0)


def _ask(
    rules: Rules, time_steps: int | None, tool: str | None, told: Mapping[str, Any], nodes: Mapping[str, nir.NIRNode],
    numbers: Numbers,
) -> None:  # fmt: skip
    """Raises GraphError, which names all that is open and the command that would do."""
    missing: list[tuple[str, str]] = []
    if time_steps is None:
        missing.append(("how long to run", "-T STEPS"))
    silent = [f"{name[:24]} ({type(node).__name__})" for name, node in nodes.items()
              if isinstance(node, _FIRING) and "reset" not in node.metadata]  # fmt: skip
    if rules.reset is None and silent:
        missing.append((f"how neurons reset, such as {silent[0]}", "--reset soft|hard"))
    timed = any(isinstance(node, _TIMED) for node in nodes.values())
    charged = any(isinstance(node, (nir.IF, nir.I)) and np.any(np.asarray(node.r) != 1) for node in nodes.values())
    if rules.time_step is None and (timed or (charged and not rules.unit_charge)):
        missing.append(("dt", "--time-step DT"))
    if tool is None and "membrane" not in told and numbers.of_other_dynamics(rules.time_step):
        missing.append(("how a step is integrated", "--membrane RULE"))
    if not missing:
        return
    what, how = zip(*missing, strict=True)
    steps = " -T 100" if time_steps is None else ""
    hint = ""
    if tool is None and len(missing) > (time_steps is None):
        text, tools = numbers.points_at() or ("", ())
        known, others = (tools[0], f" (or {', '.join(tools[1:])})" if tools[1:] else "") if tools else ("TOOL", "")
        reason = f"its numbers say {text}: " if text else ""
        hint = f"; or its tool: {reason}--from {known}{steps}{others}"
    raise GraphError(f"the file does not say {_listed(what)}: give {_listed(how)}{hint}")


def _listed(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
