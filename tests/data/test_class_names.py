import re

import pytest

from src.data.class_names import check_names, read_names
from src.errors import UserError


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("n.json", '{"n1": "tench"}', "no class name for 'n01' (did you mean 'n1'?)"),
        ("n.json", '{"n01": ""}', "gives 'n01' no class name"),
        ("n.json", '{"n01": 3}', "gives 'n01' no class name"),
        ("n.json", '["tench"]', "must hold a JSON object"),
        ("n.txt", "n01\n", "gives 'n01' no class name"),
        ("n.txt", "tench\n", "no class name for 'n01'"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        read_names(["n01"], tmp_path / name)
    assert name in str(raised.value)


def test_names_come_in_the_order_of_the_labels(tmp_path):
    (tmp_path / "n.txt").write_text("1 one\n2 two, and more\n")
    assert read_names(["2", "1"], tmp_path / "n.txt") == ["two, and more", "one"]


@pytest.mark.parametrize(
    "names", [["a_b", "a b"], ["Crane", "crane"], ["a  b", "A_B"], ["crane", "crane"]]
)
def test_two_classes_of_one_name_are_refused(names):
    with pytest.raises(UserError, match="several classes have the same name") as raised:
        check_names([*names, "other"])
    assert all(repr(name) in str(raised.value) for name in names)
    assert "other" not in str(raised.value)


@pytest.mark.parametrize("codes", [["n01855672", "n01440764"], ["0", "1"], ["12", "007"]])
def test_numbers_as_class_names_are_pointed_out_once(codes, caplog):
    check_names([*codes, "tench"])
    (record,) = caplog.records
    assert (
        f"{codes[0]!r}, {codes[1]!r}: a prompt such as 'a photo of a {codes[0]}.' says nothing"
        in (record.getMessage())
    )
    assert "dataset.class_names=FILE" in record.getMessage()


def test_names_that_hold_numbers_are_fine(caplog):
    check_names(["707-320", "A310", "n1", "2 pounds"])
    assert not caplog.records
