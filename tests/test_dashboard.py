import json
import sys

import pytest
from wandb_workspaces.workspaces import Workspace

from src import dashboard
from src.errors import UserError
from tests.cli import run


def test_a_dry_run_prints_what_it_would_create_and_needs_no_network(monkeypatch, capsys):
    monkeypatch.setattr(Workspace, "save", lambda _: pytest.fail("a dry run saves nothing"))
    monkeypatch.setattr(
        sys, "argv", ["dashboard", "--entity", "me", "--group", "offline_demo", "--dry-run"]
    )
    dashboard.main()
    printed = capsys.readouterr().out
    for expected in (
        "view 'accuracy by shots: offline_demo' in me/calipers",
        "grouped by method.name",
        "ScatterPlot: top-1 accuracy (%) by shots",
        "ParallelCoordinatesPlot: ",
        "hyperparameters.alpha",
        "accuracy, mean_class_accuracy, macro_f1, top5_accuracy, ece, nll, brier",
        "WeavePanelSummaryTable: runs",
    ):
        assert expected in printed


def test_the_view_filters_its_group_and_plots_what_runs_record():
    spec = json.dumps(dashboard.view("me", "mine", "demo")._to_model().model_dump(mode="json"))
    assert '"key": {"section": "run", "name": "group"}, "op": "=", "value": "demo"' in spec
    assert '"x_axis": "summary:shots", "y_axis": "summary:accuracy"' in spec
    assert '"grouping": [{"section": "config", "name": "method.value.name"}]' in spec


def test_a_view_is_of_one_protocol_and_plots_what_counts_by_it():
    usual = dashboard.view("me", "mine")
    assert usual.name == "accuracy by shots"
    for protocol, metric in (
        ("base_to_new", "harmonic_mean"), ("imbalanced_relaxed", "mean_class_accuracy"),
        ("cross_dataset", "accuracy"),
    ):  # fmt: skip
        view = dashboard.view("me", "mine", protocol=protocol)
        assert view.name == f"accuracy by shots: {protocol}"
        spec = json.dumps(view._to_model().model_dump(mode="json"))
        key = '"key": {"section": "summary", "name": "protocol"}'
        assert f'{key}, "op": "=", "value": "{protocol}"' in spec
        assert f'"y_axis": "summary:{metric}"' in spec
        without = json.dumps(usual._to_model().model_dump(mode="json"))
        left_out = without.partition(f'{key}, "op": "NIN", "value": [')[2].partition("]")[0]
        assert f'"{protocol}"' in left_out
    assert '"all_classes"' not in left_out


def test_an_unknown_protocol_is_refused():
    done = run("src.dashboard", "--entity", "me", "--protocol", "none", "--dry-run")
    assert done.returncode == 2
    assert "base_to_new" in done.stderr


def test_a_refusal_is_explained(monkeypatch):
    def refuse(_):
        raise ValueError("no such entity")

    monkeypatch.setattr(Workspace, "save", refuse)
    monkeypatch.setattr(sys, "argv", ["dashboard", "--entity", "nobody"])
    with pytest.raises(UserError, match=r"did not take the view: no such entity.*--entity"):
        dashboard.main()


def test_the_entity_is_asked_for():
    done = run("src.dashboard")
    assert done.returncode == 2
    assert "--entity" in done.stderr
