import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.data.prompts import make_prompts, read_descriptors, read_prompts
from src.errors import UserError

names = st.text(st.characters(exclude_characters="{}_"), max_size=9)


@given(st.lists(names, min_size=1), st.lists(st.tuples(names, names), min_size=1))
def test_prompts_hold_each_name_in_each_template(
    class_names: list[str], templates: list[tuple[str, str]]
) -> None:
    prompts = make_prompts(class_names, [f"{before}{{}}{after}" for before, after in templates])
    assert prompts == [[f"{a}{name}{b}" for a, b in templates] for name in class_names]


def test_underscores_are_read_as_spaces_and_templates_are_checked() -> None:
    assert make_prompts(["hot_dog"], ["a {} {x}.", "_{}"]) == [["a hot dog {x}.", "_hot dog"]]
    for templates, message in [
        (["a photo."], "'a photo.' must hold {} exactly once"),
        (["ok {}", "{} {}"], "'{} {}' must hold {} exactly once"),
        ([], "no prompt template"),
    ]:
        with pytest.raises(UserError, match=re.escape(message)):
            make_prompts(["x"], templates)


def read(folder, content, class_names=("hot_dog", "cat")):
    path = folder / "prompts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_prompts(str(path), class_names)


GOOD = {"cat": ["A cat purrs {}.", "Cats"], "hot dog": ["A sausage."]}


def test_prompts_of_a_class_come_in_the_order_of_the_classes(tmp_path):
    assert read(tmp_path, GOOD) == [GOOD["hot dog"], GOOD["cat"]]
    assert read(tmp_path, {"Cat": ["Upper case."], "Hot Dog": ["A sausage."], "bat": ["x"]}) == [
        ["A sausage."], ["Upper case."],
    ]  # fmt: skip
    both = GOOD | {"hot_dog": ["Underscored."]}
    assert read(tmp_path, both, ("hot_dog", "cat", "hot dog"))[0] == ["Underscored."]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cat": ["x"]}, "no prompts for 'hot_dog', or several names alike: dataset.prompts"),
        ({"cats": ["x"], "hot dog": ["x"]}, "no prompts for 'cat' (did you mean 'cats'?)"),
        (
            {"CAT": ["x"], "Cat": ["x"], "hot dog": ["x"]},
            "several names alike",
        ),
        (GOOD | {"cat": []}, "'cat' must have a list of one prompt or more"),
        (GOOD | {"cat": "A cat."}, "'cat' must have a list"),
        (GOOD | {"cat": ["A cat.", " "]}, "'cat' must have a list"),
        (GOOD | {"cat": [1]}, "'cat' must have a list"),
        ([], "must hold a JSON object"),
        ("{", "is not JSON"),
    ],
)
def test_prompts_that_do_not_fit_the_classes_are_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        read(tmp_path, content)
    assert "prompts.json" in str(raised.value)


def test_two_classes_with_the_same_prompts_are_refused_unless_they_have_one_name(tmp_path):
    same = {"cat": ["An animal."], "hot dog": ["An animal."]}
    with pytest.raises(UserError, match="same prompts for 'hot_dog', 'cat'"):
        read(tmp_path, same)
    assert read(tmp_path, GOOD, ("cat", "cat")) == [GOOD["cat"]] * 2


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nowhere: No such file.* dataset\.prompts"):
        read_prompts(str(tmp_path / "nowhere"), ["cat"])
    (tmp_path / "binary").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match=r"cannot read .*binary: 'utf-8' codec .* in UTF-8"):
        read_prompts(str(tmp_path / "binary"), ["cat"])


def test_a_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "marked.json").write_text(json.dumps({"cat": ["A cat."]}), encoding="utf-8-sig")
    assert read_prompts(str(tmp_path / "marked.json"), ["cat"]) == [["A cat."]]


def test_descriptors_become_the_sentences_of_their_authors(tmp_path):
    path = tmp_path / "descriptors.json"
    written = [
        "two legs",
        "a small comb",
        "has feathers",
        "often white",
        "used for eggs",
        "can fly",
    ]
    path.write_text(json.dumps({"hen": written, "hot dog": ["red"]}))
    assert read_descriptors(str(path), ["hen", "hot_dog"]) == [
        [
            "hen, which has two legs", "hen, which is a small comb", "hen, which has feathers",
            "hen, which often white", "hen, which is used for eggs", "hen, which can fly",
        ],
        ["hot dog, which has red"],
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"dataset\.descriptors must name every class"):
        read_descriptors(str(path), ["cow"])
