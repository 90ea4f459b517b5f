"""What a run says where the machine has too little for it: memory, or room on its disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esolab.checkpoints import begun
from esolab.errors import BadInput, out_of_memory, too_little_memory
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
    """What takes less memory, in the order in which it costs least. The run goes on with all but the last two."""
    trainer = config["trainer"]
    checkpointing = trainer.get("gradient_checkpointing")  # a configuration of an older version has none
    again = "" if checkpointing else ", then give trainer.gradient_checkpointing=true"
    return (
        f"lower trainer.micro_batch={trainer['micro_batch']}, "
        f"then trainer.micro_k={'null (all)' if trainer['micro_k'] is None else trainer['micro_k']}{again} "
        f"(evaluation.batch_size={config['evaluation']['batch_size']} where prompts were answered to be scored), "
        f"which change results by rounding alone; {_kept(folder, 'the run goes on from it with any of these')}; "
        f"trainer.precision=bf16-mixed or a lower data.max_prompt={config['data'].get('max_prompt')} begin one anew"
    )


def _kept(folder: Path, and_now: str) -> str:
    return f"the last checkpoint is kept: {and_now}" if begun(folder) else "no checkpoint was made yet"
