"""What a run says where the machine has too little for it: memory, or room on its disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esolab.checkpoints import begun
from esolab.errors import BadInput, out_of_memory, too_little_memory
from esolab.identity import noisy
from esolab.results import unwritten


@contextmanager
def explained(folder: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Inside, the run that writes to a folder says what to do where memory or room is short.

    Raises:
        BadInput: either is.
    """
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise too_little_memory(error, _lighter(folder, config)) from error
        if (reason := unwritten(error)) is not None:
            place = getattr(error, "filename", None) or folder
            kept = _kept(folder, "the same command goes on from it once there is more")
            raise BadInput(f"outputs: cannot write {str(place)!r} ({reason}); {kept}") from error
        raise


def _lighter(folder: Path, config: Mapping[str, Any]) -> str:
    """What takes less memory, in the order in which it costs least, and whether the run goes on with it."""
    trainer, prompts = config["trainer"], config["data"].get("max_prompt")
    smaller = [
        f"lower trainer.micro_batch={trainer['micro_batch']}",
        f"lower trainer.micro_k={'null (all)' if trainer['micro_k'] is None else trainer['micro_k']}",
    ]
    same, other = ([], smaller) if noisy(config) else (smaller, [])
    if not trainer.get("gradient_checkpointing"):  # a configuration of an older version has none
        same = [*same, "give trainer.gradient_checkpointing=true"]
    other = [*other, "give trainer.precision=bf16-mixed", f"lower data.max_prompt={prompts}"]
    scoring = (
        f"lower evaluation.batch_size={config['evaluation']['batch_size']} where prompts were answered to be scored"
    )
    return (
        f"{', then '.join([*same, scoring])}; these change results by rounding alone; "
        f"{_kept(folder, 'the run goes on from it with any of them')}; what begins one anew: {', '.join(other)}"
    )


def _kept(folder: Path, and_now: str) -> str:
    return f"the last checkpoint is kept: {and_now}" if begun(folder) else "no checkpoint was made yet"
