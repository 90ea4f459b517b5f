"""The files of a report: a page, a text, tables and figures, in one folder."""

from __future__ import annotations

from pathlib import Path

from esolab.errors import BadInput
from esolab.report.findings import Findings
from esolab.report.latex import write_tables
from esolab.report.markdown import write_markdown
from esolab.report.page import write_page
from esolab.report.static import write_figures


def write(found: Findings, folder: Path) -> list[Path]:
    """Write report.html, report.md, tables/*.tex and figures/* into a folder, which is made; their paths.

    Raises:
        BadInput: it cannot be written, or a file of a run is damaged.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = write_markdown(found, folder)
        return [write_page(found, folder), text, *write_tables(found, folder), *write_figures(found, folder)]
    except OSError as error:
        raise BadInput(f"report: cannot write {folder} ({error.strerror or error}); give --out DIR") from error
