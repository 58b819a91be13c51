from src.results.ending import present
from tests.results.test_frame import run


def test_rows_of_an_ablation_are_told_apart_at_the_end_of_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    values = (0.0, 0.5, 1.12)
    for number, beta2 in enumerate(values):
        run(tmp_path / str(number), {"method": {"head": {"beta2": beta2}}}, accuracy=80.0 + number)
    files = [tmp_path / f"{number}/result.json" for number in range(len(values))]
    present(tmp_path, files)
    rows = [line.strip() for line in capsys.readouterr().out.splitlines() if "calip" in line]
    for number, (row, beta2) in enumerate(zip(rows, values, strict=True)):
        assert row.startswith(f"calip (beta2={beta2})")
        assert f"{80 + number}.00" in row
