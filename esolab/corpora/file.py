"""Any local file or folder of JSON lines, JSON, CSV or Parquet, its columns named in the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter
from typing import ClassVar

from esolab.batch import Example
from esolab.corpora.base import Splits
from esolab.corpora.reading import Row
from esolab.corpora.sources import FromFiles
from esolab.errors import BadInput


@dataclass(frozen=True)
class File(FromFiles):
    """Records with a column for the prompt, one for the reference and, of pairs, one for the rejected reply.

    `template` makes the prompt of several columns: text with {column} fields. What is shortened in a prompt that is too
    long is then the column `prompt` if the template has it, else the template's last column that is not blank.
    """

    name: ClassVar[str] = "file"

    prompt: str = "prompt"
    reference: str = "reference"
    rejected: str | None = None
    id: str | None = None
    template: str | None = None

    def __call__(self) -> Splits:
        """Read the files. Raises BadInput naming file, line, value and way out."""
        self._pieces()  # a template that no record can fill is refused before any record is read
        return super().__call__()

    def example(self, row: Row) -> Example:
        """The prompt column, or the filled template; the reference column; those of id and rejected if named."""
        prompt, spans = "", {}
        for literal, column in self._pieces():
            prompt += literal
            if column is not None:
                value = row.text(column, blank=True)
                if value.strip():
                    spans[column] = (len(prompt), len(prompt) + len(value))
                prompt += value
        if not spans:
            raise BadInput(f"{row.place}: the prompt is empty")
        span = spans.get(self.prompt, list(spans.values())[-1])
        rejected = row.text(self.rejected) if self.rejected else None
        return Example(row.key(self.id) if self.id else "", prompt, row.text(self.reference), span, rejected)

    def _pieces(self) -> list[tuple[str, str | None]]:
        """The template as pairs of literal text and the column that follows it."""
        if self.template is None:
            return [("", self.prompt)]
        try:
            pieces = list(Formatter().parse(self.template))
        except ValueError as error:
            raise BadInput(f"data.template={self.template!r}: {error}; a brace of the text is written twice") from error
        if not any(column for _, column, _, _ in pieces) or any(c == "" or spec or how for _, c, spec, how in pieces):
            raise BadInput(f"data.template={self.template!r}: needs {{column}} fields, each a plain column name")
        return [(literal, column) for literal, column, _, _ in pieces]
