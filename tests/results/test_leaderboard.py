from src.results import comparison, frame, leaderboard, summary, summary_tables
from tests.results.test_record import made_up


def test_of_several_choices_each_can_be_filtered_by_and_averages_are_no_datasets(tmp_path):
    for number, (dataset, method) in enumerate([("a", "x"), ("b", "x"), ("b", "y")]):
        made_up(dataset=dataset, adapted_on=dataset, method=method).write(tmp_path / str(number))
    cells = summary.summarise(frame.load([tmp_path]).frame)
    assert leaderboard.filters(cells) == [
        ("dataset", [("a", "a"), ("b", "b")]), ("method", [("x", "x"), ("y", "y")]),
    ]  # fmt: skip


def test_a_board_is_about_its_datasets_or_about_one(tmp_path):
    for number, (dataset, shots) in enumerate([("a", 1), ("b", 1), ("a", 2)]):
        made_up(dataset=dataset, adapted_on=dataset, shots=shots).write(tmp_path / str(number))
    runs = frame.load([tmp_path]).frame
    cells = summary.summarise(runs)
    tables = [*summary_tables.by_dataset(cells), *summary_tables.by_shots(cells)]
    boards = leaderboard.boards(tables, comparison.compare(runs))
    assert [board.dataset for board in boards] == ["", "average of 2 datasets", "a", "b"]
    assert boards[0].columns == [("average of 2 datasets", ""), ("a", "a"), ("b", "b")]
    assert not any(board.ranked for board in boards), "a single method has no rank"


def test_on_other_datasets_a_column_is_about_what_was_tested(tmp_path):
    for number, dataset in enumerate("ab"):
        made_up(
            dataset=dataset, adapted_on="imagenet", protocol="cross_dataset", shots=4
        ).write(tmp_path / str(number))  # fmt: skip
    runs = frame.load([tmp_path]).frame
    (table,) = summary_tables.by_shots(summary.summarise(runs))
    (board,) = leaderboard.boards([table], comparison.compare(runs))
    assert board.columns[1:] == [("a", "imagenet → a"), ("b", "imagenet → b")]
