"""The local files that a run reads: kept as hashes when it begins, and compared when it is asked for again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from glob import escape
from typing import Any

from omegaconf import OmegaConf

from esolab import results
from esolab.assembly import Place
from esolab.checkpoints import begun
from esolab.errors import BadInput
from esolab.identity import differing

FILE = "inputs.json"  # in the folder of a run


def keep(config: Mapping[str, Any], place: Place) -> None:
    """Leave in a run's folder the hashes of what it reads."""
    results.write_json(place.folder / FILE, place.inputs(config["choices"]["data"]))


def refuse_changed(config: Mapping[str, Any], place: Place) -> None:
    """A run that has begun on other files of the same names has another identity, and would be left behind unsaid.
    Nothing is refused where this one has begun, or is done, or `rerun` begins it anew.

    Raises:
        BadInput: there is one; with the hashes of what it has read, and of what is there now.
    """
    if config["rerun"] or begun(place.folder) or (place.folder / "result.json").exists():
        return
    now = place.inputs(config["choices"]["data"])
    for file in place.folder.parent.glob(f"{escape(config['slug'])}-*/{FILE}"):
        if file.with_name("result.json").exists() or not begun(file.parent):
            continue
        theirs: Any = OmegaConf.to_container(OmegaConf.load(file.with_name("config.yaml")))
        if differing(config, theirs):
            continue
        before = json.loads(file.read_text(encoding="utf-8"))
        for name in [name for name in now if before.get(name) != now[name]][:1]:
            raise BadInput(
                f"{name}: has changed since this run began (sha256 {before.get(name, '')[:12] or 'of nothing'} then, "
                f"{now[name][:12] or 'of nothing'} now); put the files back and it goes on, or delete "
                f"{file.parent} (or give rerun=true) to begin anew"
            )
