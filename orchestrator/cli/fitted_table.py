"""A table that leaves out columns where the terminal is too narrow."""

from collections.abc import Collection, Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table

_TEXT = 30
"""Characters of a text that other columns are left out for; a longer one continues on the next line."""


class FittedTable:
    """Rows below headings; texts break between words, numbers never.

    right: headings of numbers. optional: headings to leave out on a narrow terminal, the first one first. notes:
    whether a line says which are left out.
    """

    def __init__(
        self,
        headings: Sequence[str],
        rows: Sequence[Sequence[RenderableType]],
        *,
        right: Collection[str] = (),
        optional: Sequence[str] = (),
        notes: bool = True,
    ) -> None:
        self._headings, self._rows, self._right, self._notes = headings, rows, right, notes
        self._optional = [name for name in optional if name in headings]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table with as many columns as fit."""
        fits = [
            number
            for number in range(len(self._optional) + 1)
            if console.measure(
                self._table(self._optional[:number], _TEXT), options=options.update(width=10_000)
            ).maximum
            <= options.max_width
        ]
        left_out = self._optional[: fits[0] if fits else len(self._optional)]
        yield self._table(left_out)
        if left_out and self._notes:
            yield f"A wider terminal also shows: {', '.join(left_out)}"

    def _table(self, left_out: Collection[str], text: int | None = None) -> Table:
        shown = [index for index, name in enumerate(self._headings) if name not in left_out]
        table = Table(box=None, pad_edge=False)
        for index in shown:
            name = self._headings[index]
            if name in self._right:
                table.add_column(name, justify="right", no_wrap=True)
            else:
                table.add_column(name, overflow="fold", max_width=text)
        for row in self._rows:
            table.add_row(*(row[index] for index in shown))
        return table
