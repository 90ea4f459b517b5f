"""HH: dialogues with an assistant, each with a chosen and a rejected last reply. Holds upsetting text by design."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from esolab.batch import Example
from esolab.corpora.alpaca import alpaca
from esolab.corpora.base import Splits
from esolab.corpora.reading import Row, data_files
from esolab.corpora.sources import Files, FromHub, by_name, unexpected
from esolab.errors import BadInput

CUE = "\n\nAssistant:"
SUBSETS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")


@dataclass(frozen=True)
class HH(FromHub):
    """Records with chosen and rejected, whole dialogues that differ in the last reply. The reference is the chosen one.

    Broken pairs, with an empty reply or of two prompts, are left out of training and counted; of the test set, whose
    first so many records are a measure, they stay and say so. Records without the cue are left out everywhere.
    """

    name: ClassVar[str] = "hh"

    subset: Literal["all", "harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled"] = "all"
    form: Literal["raw", "alpaca"] = "raw"

    def __call__(self) -> Splits:
        """Read the corpus. Raises BadInput naming file, line, value and way out."""
        splits = super().__call__()
        train, dev = ([e for e in part if not e.broken] for part in (splits.train, splits.dev))
        broken = len(splits.train) + len(splits.dev) - len(train) - len(dev)
        return replace(splits, train=train, dev=dev, skipped=splits.skipped + broken, cut_long=self.form == "raw")

    @property
    def subsets(self) -> tuple[str, ...]:
        """The folders to read, in order."""
        return SUBSETS if self.subset == "all" else (self.subset,)

    def fetch(self) -> Path:
        """The folders of the subsets."""
        return self._download(*(f"{subset}/*.jsonl.gz" for subset in self.subsets))

    def files(self, place: Path) -> Files:
        """The train*, valid* and test* files of the subsets' folders, or one file that is cut by position."""
        if place.is_file():
            return {"all": [place]}
        if stray := data_files(place):
            raise unexpected(place, stray, f"in the folders {', '.join(self.subsets)}")
        merged: Files = {}
        for subset in self.subsets:
            if not (place / subset).is_dir():
                there = ", ".join(name for name in SUBSETS if (place / name).is_dir()) or "none of them"
                raise BadInput(
                    f"{place}: no folder {subset}. data.subset=NAME reads one of {', '.join(SUBSETS)}; there: {there}"
                )
            for split, files in by_name(place / subset).items():
                merged.setdefault(split, []).extend(files)
        return merged

    def example(self, row: Row) -> Example | None:
        """The dialogue up to and including the last cue, and both replies with the blank that follows the cue; in the
        Alpaca form, the dialogue as the instruction."""
        prompt, cue, reply = row.text("chosen").rpartition(CUE)
        other, _, rejected = row.text("rejected").rpartition(CUE)
        if not cue:
            return None
        faults = {
            "empty chosen reply": not reply.strip(),
            "empty rejected reply": not rejected.strip(),
            "two prompts": other != prompt,
        }
        made = Example("", prompt + CUE, reply.rstrip(), (0, len(prompt + CUE)))
        if self.form == "alpaca":
            made = alpaca((prompt + CUE).strip(), "", reply.strip())
            rejected = rejected.strip()
        return replace(made, rejected=rejected.rstrip(), broken=", ".join(f for f, is_so in faults.items() if is_so))
