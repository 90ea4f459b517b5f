"""`python -m esolab.dashboard FOLDER`: a report as a W&B workspace, and as a W&B report with its words first.

W&B has what runs log while they train (esolab.loggers), so curves and bars are of dev; test scores, which it never
sees, come from the folders, as verdicts and tables. Series are the runs that differ in nothing but their seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import BaseModel

from esolab.errors import BadInput
from esolab.panels import Logged, logged, sections
from esolab.report.comparisons import score_tables
from esolab.report.findings import Findings, findings
from esolab.report.markdown import inline, rows
from esolab.results import write_text

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace


def workspace(found: Findings, sent: Logged, entity: str, project: str) -> Workspace:
    """The workspace: what the report says in words, then a section each for what was logged."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    words = "\n".join(f"- {inline(line)}" for line in _verdicts(found))
    verdict = ws.Section(name="Verdict", panels=[wr.MarkdownPanel(markdown=words)], is_open=True)
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"esolab {found.experiment}",
        sections=[verdict, *(ws.Section(name=n, panels=p, is_open=True) for n, p in sections(sent).items())],
        runset_settings=ws.RunsetSettings(filters=sent.filters, groupby=[ws.Config(key) for key in sent.apart]),
    )


def report(found: Findings, sent: Logged, entity: str, project: str, known: bool = False) -> Report:
    """The report: verdicts, test scores, then the panels. `known` names the project in the set of runs, which makes
    the library ask W&B for it; without, runs are those of the report's own project."""
    import wandb_workspaces.reports.v2 as wr

    place = {"entity": entity, "project": project} if known else {}
    groupby = [f"config.{key}" for key in sent.apart]
    blocks: list[Any] = [wr.H1("Verdict"), wr.UnorderedList(items=_verdicts(found)), wr.H1("Scores on the test")]
    for table in score_tables(found):
        blocks += [wr.MarkdownBlock("\n".join([f"**{inline(str(table.title))}**", "", *rows(table)]))]
    for title, panels in sections(sent).items():
        runset = wr.Runset(name=found.experiment, filters=sent.filters, groupby=groupby, **place)
        blocks += [wr.H1(title), wr.PanelGrid(runsets=[runset], panels=panels)]
    title = f"esolab {found.experiment}"[:128]  # all that W&B takes
    return wr.Report(entity=entity, project=project, title=title, description=found.about or "", blocks=blocks)


def _verdicts(found: Findings) -> list[str]:
    return found.verdicts or ["Nothing to compare."]


def write(found: Findings, sent: Logged, folder: Path, entity: str, project: str) -> list[Path]:
    """Build both, read them back, and write workspace.json and report.json; nothing is asked of W&B.

    Raises:
        BadInput: a file cannot be written.
    """
    models = {
        "workspace": workspace(found, sent, entity, project)._to_model(),  # the library has no public word for it
        "report": report(found, sent, entity, project)._to_model(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, model in models.items():
            write_text(folder / f"{name}.json", _checked(model) + "\n")
    except OSError as error:
        raise BadInput(f"dashboard: cannot write {folder} ({error.strerror or error})") from error
    return [folder / f"{name}.json" for name in models]


def _checked(model: BaseModel) -> str:
    """The JSON that W&B is sent; pydantic raises here where the library could not read it again."""
    text = model.model_dump_json(by_alias=True, exclude_none=True, indent=1)
    type(model).model_validate_json(text)
    return text


def apply(found: Findings, sent: Logged, entity: str | None, project: str) -> list[str]:
    """Save both in the account that is set up; their addresses.

    Raises:
        BadInput: there is no account, or W&B refuses.
    """
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise BadInput(
            "dashboard: --apply: no W&B account is set up; `wandb login` sets one up, or give WANDB_API_KEY in the "
            "environment; without --apply nothing is sent"
        )
    try:
        entity = entity or wandb.Api().default_entity
        if entity is None:
            raise BadInput("dashboard: --apply: the account has no default entity; give --entity NAME")
        made = (workspace(found, sent, entity, project), report(found, sent, entity, project, known=True))
        return [one.save().url for one in made]
    except (wandb.Error, OSError, ValueError) as error:  # no network, no such project, no right to it
        if isinstance(error, BadInput):
            raise
        place = f"{entity or 'the default entity'}/{project}"
        raise BadInput(
            f"dashboard: --apply: W&B refused {place} ({' '.join(str(error).split())}); give --entity and --project of "
            "the runs, see `wandb login`, and whether its server can be reached"
        ) from error


class Parser(argparse.ArgumentParser):
    """Says what does not fit as everything here does."""

    def error(self, message: str) -> NoReturn:
        """Raise BadInput."""
        raise BadInput(f"dashboard: {message}; -h lists what it takes")


def parser() -> Parser:
    """What the command line may hold."""
    made = Parser(prog="python -m esolab.dashboard", description="The figures of a report in W&B.", allow_abbrev=False)
    made.add_argument("folder", metavar="FOLDER", type=Path, help="of an experiment, as outputs/quickstart")
    made.add_argument("--entity", metavar="NAME", help="user or team in W&B; that of the account by default")
    made.add_argument("--project", metavar="NAME", default="esolab", help="that the runs are in, esolab by default")
    made.add_argument(
        "--apply", action="store_true", help="save them in W&B; without it two files are written, no more"
    )
    return made


def main(arguments: Sequence[str]) -> int:
    """Write the dashboard of a folder, save it where that is asked for; the exit code."""
    try:
        asked = parser().parse_args(arguments)
        _dashboard(asked)
    except BadInput as error:
        print(error.shown(), file=sys.stderr)
        return 2
    except SystemExit:  # -h
        return 0
    return 0


def _dashboard(asked: argparse.Namespace) -> None:
    if find_spec("wandb_workspaces") is None:
        raise BadInput("dashboard: wandb-workspaces is not installed; pip install 'esolab[dashboard]'")
    found = findings([asked.folder])
    sent = logged(found)
    written = write(found, sent, asked.folder / "dashboard", asked.entity or "", asked.project)
    print(f"written in {asked.folder / 'dashboard'}: {', '.join(path.name for path in written)}")
    print(f"shows the runs of {asked.project} in group {', '.join(sent.groups)}: ", end="")
    print(f"{sent.sent} of these {sent.runs} have logger=wandb")
    if asked.apply:
        print("\n".join(apply(found, sent, asked.entity, asked.project)))
    else:
        print("nothing was sent; after `wandb login`, the same command with --apply saves them in W&B")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
