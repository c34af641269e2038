"""What a stage does, shown to a person: bars with time left on a terminal, plain lines
elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from types import TracebackType

MARKS = {
    "done": "[green]done[/]   ",
    "skipped": "[dim]skipped[/]",
    "empty": "[yellow]empty[/]  ",
    "failed": "[red]failed[/] ",
}


class Display:
    """Progress of a stage on standard error."""

    def __init__(self, *, quiet: bool = False, terse: bool = False) -> None:
        """`terse`: bars only, where there is a terminal, and a line when a stage ends."""
        self.terse = terse
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.bars = Bars(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[current]}"),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self.task: TaskID | None = None
        self.stage = ""
        self.total = self.count = 0
        self.parts: dict[str, float] = {}
        """Share done of each slide that is being worked."""

    def __enter__(self) -> Display:
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def start(self, stage: str, total: int) -> None:
        """A stage begins."""
        if self.task is not None:
            self.bars.remove_task(self.task)
        self.stage, self.total, self.count, self.parts = stage, total, 0, {}
        self.task = self.bars.add_task(stage, total=total, current="")

    def begin(self, slide_id: str) -> None:
        """Work on a slide begins."""
        self.parts[slide_id] = 0.0
        self._show()

    def step(self, slide_id: str, done: int, total: int) -> None:
        """So many patches of the slide are done."""
        if slide_id in self.parts and total:
            self.parts[slide_id] = done / total
            self._show()

    def _show(self) -> None:
        if self.task is not None:
            done = self.count + sum(self.parts.values())
            self.bars.update(self.task, completed=done, current=", ".join(self.parts))

    def end(self, slide_id: str, state: str, message: str) -> None:
        """A slide is done, skipped, empty or failed."""
        from rich.markup import escape

        self.count += 1
        self.parts.pop(slide_id, None)
        self._show()
        if self.terse:
            if self.count == self.total:
                self.console.print(f"{self.stage}: {self.total} drawn", soft_wrap=True)
            return
        if state != "skipped" or self.count == self.total:
            self.console.print(
                f"{self.count:>4}/{self.total} {MARKS[state]} {escape(slide_id)}: "
                f"{escape(message)}",
                soft_wrap=True,
            )
