"""What several commands print: tables, layers by kind, and how far a loop is."""

from collections.abc import Callable, Iterable, Sequence

from rich import box
from rich.progress import track
from rich.table import Table

from neurotool import terminal
from neurotool.executor import Inputs


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """The first column to the left, numbers to the right; for a console without markup (terminal.console)."""
    made = Table(title=title or None, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for i, heading in enumerate(headings):
        made.add_column(heading, justify="right" if i else "left", overflow="fold", no_wrap=not i)
    for row in rows:
        made.add_row(*row)
    return made


def one_by_one(names: Iterable[str]) -> dict[str, list[str]]:
    """Each layer by itself, as `neurotool.graph.names.by_kind` groups them."""
    return {name: [name] for name in names}


def shown_progress(quiet: bool = False) -> Callable[[Iterable[Inputs], str], Iterable[Inputs]]:
    """How a loop shows how far it is: on the terminal, if standard error is one."""
    console = terminal.console(stderr=True)

    def show(inputs: Iterable[Inputs], what: str) -> Iterable[Inputs]:
        return track(inputs, what, console=console, transient=True, disable=quiet or not console.is_terminal)

    return show
