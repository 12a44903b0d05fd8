"""What is printed for people."""

from typing import Any

from rich.console import Console


def console(**options: Any) -> Console:
    """A rich console that takes names of classes, layers and files as they are: "[red]" and ":smile:" are no markup."""
    return Console(**{"markup": False, "emoji": False, **options})
