"""`python -m src.dashboard --entity NAME`: write the saved view of a W&B project.

A W&B run is one run of Calipers, so its record is plotted, not a history. Runs of different
protocols have views of their own. The interface of `wandb_workspaces` is a public preview.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from src.command_line import run_command
from src.config import ALL_CLASSES
from src.errors import UserError
from src.results.metrics import METRICS
from src.results.protocols import PROTOCOLS, in_words, reading

NAME = "accuracy by shots"
GROUPED_BY = "method.name"
METRIC_NAMES = tuple(metric.name for metric in METRICS)
COLUMNS = (
    "protocol", "dataset", "adapted_on", "backbone", "method", "shots", "seed", "selection",
)  # fmt: skip
SETTINGS = ("alpha", "beta", "beta2", "beta3", "c", "residual_ratio")
MOST_RUNS = 1000
"""How many runs a panel shows. W&B's default is 10, and a table of eleven datasets has more."""


def main() -> None:
    """Write the view, or print what would be written.

    Raises:
        UserError: W&B refuses, because there is no key, no network or no such entity.
    """
    parser = argparse.ArgumentParser(
        prog="python -m src.dashboard", description="Write the saved view of a W&B project."
    )
    parser.add_argument("--entity", required=True, help="the W&B user or team")
    parser.add_argument("--project", default="calipers")
    parser.add_argument("--group", help="only runs of this group, as a recipe's name")
    parser.add_argument(
        "--protocol", default=ALL_CLASSES, choices=PROTOCOLS, help="whose runs (all_classes)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be created")
    arguments = parser.parse_args()
    workspace = view(
        arguments.entity, arguments.project, arguments.group, protocol=arguments.protocol
    )
    if arguments.dry_run:
        print("\n".join(describe(workspace)))
        return
    try:
        workspace.save()
    except Exception as error:  # the library raises what its transport does, of many kinds
        raise UserError(
            f"W&B did not take the view: {error}. Check --entity, `wandb login` and the network, "
            "or look at --dry-run."
        ) from error


def view(
    entity: str, project: str, group: str | None = None, *, protocol: str = ALL_CLASSES
) -> Any:
    """Make the view of a protocol's runs: a `wandb_workspaces` workspace that is not saved yet."""
    import wandb_workspaces.reports.v2 as panels
    from wandb_workspaces import workspaces

    summary = panels.SummaryMetric
    coordinates = ["shots", *(f"hyperparameters.{name}" for name in SETTINGS)]
    read = reading(protocol)
    metrics = list(dict.fromkeys([*read.metrics, *METRIC_NAMES]))
    coordinates += ["validation_accuracy", *reversed(metrics)]
    sections = {
        "accuracy against shots": [
            panels.ScatterPlot(
                title=f"{read.quantity} (%) by shots", x=summary("shots"), y=summary(read.metric)
            ),
            panels.BarPlot(
                title=f"{read.quantity} (%), mean by method",
                metrics=[read.metric],
                groupby=panels.Config(GROUPED_BY),
                groupby_aggfunc="mean",
                groupby_rangefunc="stddev",
            ),
        ],
        "settings": [
            panels.ParallelCoordinatesPlot(
                title="chosen settings and what they gave",
                columns=[
                    panels.ParallelCoordinatesPlotColumn(metric=summary(name))
                    for name in coordinates
                ],
            )
        ],
        "table": [panels.WeavePanelSummaryTable(table_name="runs")],
    }
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=": ".join(filter(None, (NAME, in_words(protocol), group))),
        sections=[
            workspaces.Section(name=name, panels=content, is_open=True)
            for name, content in sections.items()
        ],
        settings=workspaces.WorkspaceSettings(max_runs=MOST_RUNS),
        runset_settings=workspaces.RunsetSettings(
            filters=" and ".join([*_of_protocol(protocol), *_of_group(group)]),
            groupby=[workspaces.Config(GROUPED_BY)],
            order=[workspaces.Ordering(workspaces.Summary(read.metric), ascending=False)],
            pinned_columns=[f"summary:{name}" for name in (*COLUMNS, *metrics)],
        ),
    )


def _of_protocol(protocol: str) -> list[str]:
    # Runs from before there were others name no protocol.
    others = [one for one in PROTOCOLS if one != ALL_CLASSES]
    usual = protocol == ALL_CLASSES
    return [f"Summary('protocol') {f'not in {others}' if usual else f'= {protocol!r}'}"]


def _of_group(group: str | None) -> list[str]:
    return [] if group is None else [f"Metric('group') = '{group}'"]


def describe(workspace: Any) -> list[str]:
    """Say line by line what a view holds."""
    settings = workspace.runset_settings
    lines = [
        f"view {workspace.name!r} in {workspace.entity}/{workspace.project}",
        f"  runs: {settings.filters or 'all'}, grouped by {GROUPED_BY}",
        f"  columns: {', '.join(_names(settings.pinned_columns))}",
    ]
    for section in workspace.sections:
        lines.append(f"  {section.name}")
        for panel in section.panels:
            title = getattr(panel, "title", None) or panel.table_name
            lines.append(f"    {type(panel).__name__}: {title}")
            for column in getattr(panel, "columns", []):
                lines.append(f"      {column.metric.name}")
    return lines


def _names(columns: Sequence[str]) -> list[str]:
    return [name for kind, _, name in (one.partition(":") for one in columns) if kind == "summary"]


if __name__ == "__main__":
    run_command(main)
