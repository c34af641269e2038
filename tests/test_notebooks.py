"""Every notebook runs from a clean kernel on the demo, and shows its pictures."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_notebook_runs(path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORPHOMIL_DEMO", str(demo))
    notebook = nbformat.read(path, as_version=4)
    stored = [kinds(cell) for cell in notebook.cells if cell.cell_type == "code"]
    NotebookClient(notebook, timeout=180, kernel_name="python3").execute()
    assert [kinds(cell) for cell in notebook.cells if cell.cell_type == "code"] == stored
    assert any("image/png" in found for found in stored)


def kinds(cell: nbformat.NotebookNode) -> set[str]:
    return {kind for output in cell.outputs for kind in output.get("data", {})}
