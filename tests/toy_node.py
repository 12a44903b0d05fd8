"""A type of node that neurotool does not have, with its entry in every table: what docs/contributing.md describes."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurotool.energy.operations import Operations, Work
from neurotool.energy.rules import RULES, Setting
from neurotool.export.drawing import DRAWINGS, Drawing
from neurotool.export.lower import LOWERINGS
from neurotool.export.lowering import Lowering
from neurotool.export.placement import PLACES, Place
from neurotool.export.to_nir import NIR_FORMS, NirForm
from neurotool.graph import Context, FixedPoint, Node, Shape, register
from neurotool.graph.nodes.node import check_numbers
from neurotool.lava_runtime.integer import INTEGER_FORMS
from neurotool.lava_runtime.network import PART_KINDS, PartKind


@register
@dataclass(frozen=True, eq=False)
class Clipped(Node):
    """y = min(max(x, 0), ceiling)."""

    ceiling: float = 1.0

    def check(self) -> None:
        check_numbers(self, "ceiling", "one number above 0", lambda v: (v > 0) & (np.ndim(v) == 0))

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        return np.clip(x[0], 0, self.ceiling)


def _in_integers(integers: Any, name: str, node: Clipped, context: Context, x: np.ndarray) -> np.ndarray:
    return np.clip(x, 0, int(node.ceiling))


def _lowered(lowering: Lowering, name: str, node: Clipped) -> tuple[Node, FixedPoint]:
    """The units stay those of what it reads."""
    scale, bound = lowering.source(name)
    ceiling = max(1, round(node.ceiling / scale))
    return replace(node, ceiling=ceiling), FixedPoint(scale, min(bound, ceiling), ((1, 0),))


def _counted(node: Clipped, setting: Setting) -> Work:
    each = setting.elements * setting.runs
    return Work(Operations(compares=2 * each, value_reads=each, value_writes=each))


INTEGER_FORMS[Clipped] = _in_integers
PART_KINDS[Clipped] = PartKind("operation")
LOWERINGS[Clipped] = _lowered
PLACES[Clipped] = Place("in place", program=lambda node: "Clipped")
NIR_FORMS[Clipped] = NirForm()
DRAWINGS[Clipped] = Drawing(lambda node: f"0 … {node.ceiling:.3g}")
RULES[Clipped] = _counted
