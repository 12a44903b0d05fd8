"""Names of nodes: a dot separates a group from what is in it, and a number tells layers of one kind apart."""

import re
from collections.abc import Iterable


def in_group(names: Iterable[str], group: str) -> list[str]:
    """The node of this name, or all whose names begin with it: encoder.0 -> encoder.0.key, …"""
    return [name for name in names if name == group or name.startswith(f"{group}.")]


def by_kind(names: Iterable[str]) -> dict[str, list[str]]:
    """Layers that differ in a number alone, together: encoder.*.key -> [encoder.0.key, encoder.1.key]."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name), []).append(name)
    return groups
