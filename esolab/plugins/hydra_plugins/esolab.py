"""The sweeper and the launcher of `python -m esolab -m`, under the only name by which Hydra accepts them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher


class JobSweeper(BasicSweeper):
    """Hydra's grammar of sweeps, but a job is composed only when it is launched, and nothing is written here."""

    def sweep(self, arguments: list[str]) -> Any:
        """Every combination of the choices, to the launcher."""
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)  # type: ignore[union-attr]
        said = {argument.partition("=")[0] for argument in arguments}  # the command line wins over the experiment
        params = [param for param in self._parse_config() if param.partition("=")[0] not in said]
        overrides = parser.parse_overrides([*params, *arguments])
        (jobs,) = self.split_arguments(overrides, None)
        return self.launcher.launch(jobs, initial_job_idx=0)


class ProcessLauncher(Launcher):
    """Hand the jobs of a sweep to esolab.sweep, one process each, here."""

    def setup(self, **kwargs: Any) -> None:
        """Nothing of Hydra's is needed: each job composes its own configuration, once, before it starts."""

    def processes(self) -> Any:
        """What runs a job; None for a process here."""
        return None

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and leave with the sweep's exit code."""
        from esolab.errors import BadInput
        from esolab.sweep import sweep

        try:
            code = sweep([list(overrides) for overrides in job_overrides], self.processes())
        except BadInput as error:
            print(error.shown(), file=sys.stderr)
            code = 2
        raise SystemExit(code)


class SlurmLauncher(ProcessLauncher):
    """The same, each job where SLURM puts it."""

    def __init__(self, cluster: str, folder: str, settings: Any) -> None:
        self.cluster, self.folder, self.settings = cluster, folder, dict(settings)

    def processes(self) -> Any:
        """What submits a job and waits for its end."""
        from esolab.processes import Submitted

        return Submitted(self.cluster, self.folder, self.settings)


SWEEPER = {"_target_": "hydra_plugins.esolab.JobSweeper", "max_batch_size": None, "params": None}
LAUNCHER = {"_target_": "hydra_plugins.esolab.ProcessLauncher"}
SLURM = {
    "_target_": "hydra_plugins.esolab.SlurmLauncher",
    "cluster": "slurm",  # local: submitit's stand-in on this machine
    "folder": "outputs/slurm",  # scripts and logs
    "settings": {"timeout_min": 1440, "nodes": 1, "tasks_per_node": 1, "gpus_per_node": 1, "cpus_per_task": 8},
}
store = ConfigStore.instance()
store.store(group="hydra/sweeper", name="esolab", node=SWEEPER, provider="esolab")
store.store(group="hydra/launcher", name="esolab", node=LAUNCHER, provider="esolab")
store.store(group="hydra/launcher", name="slurm", node=SLURM, provider="esolab")
