"""The front door: `python -m esolab`. Light to import; heavy libraries load only when a run starts."""

from __future__ import annotations

import atexit
import os
import sys
import traceback
from argparse import Namespace
from pathlib import Path
from typing import Any, NoReturn


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line says; the exit code. Bad input is one message and code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    from esolab.allowed import allowing, flags
    from esolab.errors import BadInput

    try:
        modules, arguments = flags(arguments)
        with allowing(modules):
            return _do(arguments)
    except BadInput as error:
        print(error.shown(), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        return 130


def _do(arguments: list[str]) -> int:
    if arguments[:1] in (["--resolved"], ["--trunk"]):
        return _resolved(*arguments)
    arguments = [a for a in arguments if a not in ("--run", "-r")]  # what happens anyway
    if arguments[:1] == ["--save"]:
        return _save(*arguments[1:])
    if any(a.startswith("-") for a in arguments):
        return _hydra(arguments)
    from esolab.config import resolve

    return _run(resolve(arguments))


def _run(config: dict[str, Any]) -> int:
    """Do the run, here or in a process for each device; Ctrl-C leaves it with the way to go on. The exit code."""
    from esolab.assembly import locate
    from esolab.check import build
    from esolab.checkpoints import begun
    from esolab.errors import BadInput
    from esolab.launch import apart, launch
    from esolab.ranks import leave
    from esolab.run import run

    if config["stages"]:
        name = config["choices"]["experiments"]
        raise BadInput(f"experiments={name}: has stages, which one run is not; give -m, too: -m experiments={name}")
    trainer = build(config["trainer"])
    if apart(trainer):
        return launch(config, trainer, "--resolved")
    try:
        run(config)
        leave()
    except KeyboardInterrupt as stop:
        saved = begun(locate(config).folder)
        what = "goes on from the last checkpoint" if saved else "starts again: nothing was saved yet"
        without = " without rerun=true" if config["rerun"] and saved else ""
        raise KeyboardInterrupt(f"stopped; the same command{without} {what}") from stop
    return 0


def _resolved(flag: str, *files: str) -> int:
    """Run a resolved configuration file, as a sweep's jobs do, or the epochs that it shares with others (--trunk);
    nothing is composed again."""
    from esolab.config import load
    from esolab.errors import BadInput

    if len(files) != 1 or not Path(files[0]).is_file():
        raise BadInput(f"{flag}: give one file, the config.yaml of a run's folder")
    config = load(Path(files[0]))
    if flag == "--resolved":
        return _run(config)
    from esolab.check import build
    from esolab.launch import apart, launch
    from esolab.ranks import leave
    from esolab.trunks import train

    trainer = build(config["trainer"])
    if apart(trainer):
        return launch(config, trainer, flag)
    train(config)
    leave()
    return 0


def _save(*arguments: str) -> int:
    """Write the resolved configuration of a run to a file, for --resolved: --save FILE key=value ..."""
    import yaml

    from esolab.config import resolve
    from esolab.errors import BadInput

    if not arguments or "=" in arguments[0]:
        raise BadInput("--save: give a file, and then key=value")
    config = resolve(arguments[1:])
    try:
        Path(arguments[0]).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--save {arguments[0]}: cannot be written ({error.strerror})") from error
    return 0


def _hydra(arguments: list[str]) -> int:
    """Hydra's own commands: --help, --cfg, --multirun and the like."""
    import hydra
    from hydra._internal.utils import get_args_parser

    from esolab.config import CONF, judge, staged
    from esolab.errors import BadInput

    flags = get_args_parser().parse_args(arguments)
    _refuse(flags)
    judge(flags.overrides)
    if flags.resolve and staged(flags.overrides):
        raise BadInput("--resolve: ${stage.NAME} stands for what a stage has yet to leave; leave --resolve out")

    def task(config: object) -> None:
        raise RuntimeError("a single run does not come here")

    sys.argv = ["esolab", *arguments]
    hydra.main(version_base="1.3", config_path=str(CONF.absolute()), config_name="config")(task)()
    return 0


def _refuse(flags: Namespace) -> None:
    """Say which flags of Hydra's do nothing here, before Hydra fails over them."""
    from esolab.config import CONF
    from esolab.errors import BadInput

    for name in ("config_path", "config_name", "config_dir", "experimental_rerun"):
        if (value := getattr(flags, name)) is not None:
            flag = "--" + name.replace("_", "-")
            raise BadInput(f"{flag} {value}: settings come from {CONF} alone; leave {flag} out and give key=value")
    commands = [c for c in ("cfg", "info", "multirun", "shell_completion") if getattr(flags, c)]
    if len(commands) > 1:
        raise BadInput(f"--{commands[0]} and --{commands[1]}: give one of them")
    if flags.cfg is None and not flags.help and (flags.resolve or flags.package):
        raise BadInput(f"--{'resolve' if flags.resolve else 'package'}: goes with --cfg job alone; leave it out to run")


def end(code: int, rank: bool) -> NoReturn:
    """End this process. A rank of several does not take the interpreter down: a thread of gloo may still be letting go
    of the tensors of the last message, for which it needs the interpreter, and where that is gone it aborts."""
    if rank:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    rank = os.environ.get("WORLD_SIZE", "1") != "1"  # Lightning forgets it
    try:
        code = main()
    except Exception:
        if not rank:
            raise
        traceback.print_exc()
        code = 1
    end(code, rank)
