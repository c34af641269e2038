"""What a stage does, shown to a person: bars with time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from types import TracebackType

MARKS = {"done": "[green]done[/]   ", "skipped": "[dim]skipped[/]", "failed": "[red]failed[/] "}


class Display:
    """Progress of a stage on standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
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
        self.total = self.count = 0

    def __enter__(self) -> Display:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def start(self, stage: str, total: int) -> None:
        """A stage begins."""
        if self.task is not None:
            self.bars.remove_task(self.task)
        self.total, self.count = total, 0
        self.task = self.bars.add_task(stage, total=total, current="")

    def begin(self, slide_id: str) -> None:
        """Work on a slide begins."""
        if self.task is not None:
            self.bars.update(self.task, current=slide_id)

    def step(self, done: int, total: int) -> None:
        """So many patches of the slide are done."""
        if self.task is not None and total:
            self.bars.update(self.task, completed=self.count + done / total)

    def end(self, slide_id: str, state: str, message: str) -> None:
        """A slide is done, skipped or failed."""
        from rich.markup import escape

        self.count += 1
        if self.task is not None:
            self.bars.update(self.task, completed=self.count, current="")
        if state != "skipped" or self.count == self.total:
            self.console.print(
                f"{self.count:>4}/{self.total} {MARKS[state]} {escape(slide_id)}: {escape(message)}", soft_wrap=True
            )
