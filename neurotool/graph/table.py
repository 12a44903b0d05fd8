"""What one room knows of each type of node, in one table."""

from typing import Generic, TypeVar

from neurotool.errors import GraphError
from neurotool.graph.nodes import NODE_TYPES, Node

Entry = TypeVar("Entry")


class NodeTable(Generic[Entry]):
    """Entries by node type. `what`: what an entry is, for messages.

    A type defined elsewhere is entered as in a dict: TABLE[Type] = entry.
    """

    def __init__(self, what: str, entries: dict[type[Node], Entry]) -> None:
        self.what, self._entries = what, entries

    def __setitem__(self, kind: type[Node], entry: Entry) -> None:
        self._entries[kind] = entry

    def of(self, name: str, node: Node) -> Entry:
        """The entry for node `name`. Raises GraphError where there is none."""
        if type(node) not in self._entries:
            raise GraphError(f"node {name} ({type(node).__name__}) has no {self.what}: its type is not in that table")
        return self._entries[type(node)]

    def missing(self) -> list[str]:
        """Known types of nodes that have no entry."""
        return [name for name, kind in NODE_TYPES.items() if kind not in self._entries]
