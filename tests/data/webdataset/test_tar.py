"""What a shard holds, and shards that are refused."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from src.data.webdataset.tar import scan
from src.errors import UserError
from tests.data.webdataset.making import png, samples, tar

A = png(1)


def scanned(content, label=None):
    return scan(io.BytesIO(content), "x.tar", label)


def member_names(found):
    starts = [0, *found.ends[:-1]]
    return [bytes(found.names[a:b]).decode() for a, b in zip(starts, found.ends, strict=True)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_are_found_where_they_lie(form):
    content = tar(*samples(0, 5, size=40), form=form)
    found = scanned(content)
    for number in range(5):
        start, size = found.offset[number], found.size[number]
        assert content[start : start + size] == png(number, 40)
    assert found.label.tolist() == [0, 1, 0, 1, 0]
    assert member_names(found) == [f"s{number:04}.png" for number in range(5)]
    assert len(set(found.key.tolist())) == 5
    assert found.class_names is None and not found.left_out


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_keys(form):
    folder = "ü" * 150
    found = scanned(tar((f"{folder}/a.b/c.jpg", A), (f"{folder}/a.b/c.cls", b"1"), form=form))
    assert member_names(found) == [f"{folder}/a.b/c.jpg"]


def test_a_key_ends_at_the_first_dot_and_further_members_are_left_out():
    found = scanned(
        tar(
            ("a.v2.png", A), ("a.png", A), ("a.cls", b"0"), ("a.json", b"{}"), ("README", b""),
            ("._a.png", A), ("meta.json", b"{}"), ("b.PNG", A), ("b.CLS", b"1\n"),
        )
    )  # fmt: skip
    assert member_names(found) == ["a.png", "b.PNG"]
    assert found.left_out == {"v2.png": 1, "": 2, "json": 1}


def test_images_may_lie_before_all_labels():
    found = scanned(tar(("a.png", A), ("b.png", A), ("a.cls", b"1"), ("b.cls", b"0")))
    assert found.label.tolist() == [1, 0]


@pytest.mark.parametrize("outside", ["../x", "/etc/x", "a/../../x"])
def test_names_that_would_lead_elsewhere_are_only_keys(tmp_path, monkeypatch, outside):
    monkeypatch.chdir(tmp_path)
    found = scanned(tar((f"{outside}.png", A), (f"{outside}.cls", b"0")))
    assert len(found.offset) == 1
    assert not [*Path(tmp_path).parent.glob("x.*"), *tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("label", "content", "numbers", "names"),
    [
        ("txt", [("txt", b"cat"), ("txt", b" a dog\n")], [1, 0], ["a dog", "cat"]),
        ("json.label", [("json", b'{"label": 3}'), ("json", b'{"label": 0}')], [3, 0], None),
        ("json.a.b", [("json", b'{"a": {"b": "x"}}')] * 2, [0, 0], ["x"]),
        ("cls", [("cls", b"7"), ("cls", b"0")], [7, 0], None),
        (None, [("txt", b"cat"), ("txt", b"dog")], [0, 1], ["cat", "dog"]),
    ],
)
def test_labels_are_numbers_or_names(label, content, numbers, names):
    members = [
        member
        for number, (ending, text) in enumerate(content)
        for member in ((f"{number}.jpg", A), (f"{number}.{ending}", text))
    ]
    found = scanned(tar(*members), label)
    assert (found.label.tolist(), found.class_names) == (numbers, names)


def test_numbers_of_classes_come_before_captions():
    found = scanned(tar(("a.png", A), ("a.cls", b"5"), ("a.txt", b"a caption")))
    assert (found.label.tolist(), found.class_names) == ([5], None)


def special(name, kind, target=""):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


GOOD = (("a.png", A), ("a.cls", b"0"))
WHOLE = tar(*samples(0, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar(*GOOD, special("b.png", tarfile.SYMTYPE, "a.png")), "holds 'b.png', which is a link"),
        (tar(*GOOD, special("b.png", tarfile.LNKTYPE, "a.png")), "holds 'b.png', which is a link"),
        (tar(*GOOD, special("dev.png", tarfile.CHRTYPE)), "holds 'dev.png', which is a link, a de"),
        (tar(*GOOD, special("fifo", tarfile.FIFOTYPE)), "holds 'fifo'"),
        (tar(*GOOD, ("a.png", A)), "more than one member for the key of 'a.png'"),
        (tar(*GOOD, ("b.png", A), ("b.cls", b"0"), *GOOD), "for the key of 'a.png'"),
        (tar(*GOOD, ("a.jpg", A)), "for the key of 'a.jpg' and 'a.png'"),
        (tar(*GOOD, ("a.cls", b"1")), "for the key of 'a.cls'"),
        (tar(*GOOD, ("b.png", A)), "'b.png' in the shard x.tar has no label .cls"),
        (tar(("b.png", A)), "'b.png' in the shard x.tar has no label .cls"),
        (tar(*GOOD, ("b.cls", b"1")), "has a label for 'b', and no image"),
        (tar(("a.png", A), ("a.cls", b"cat")), r"the label of 'a.png' .* no integer \(b'cat'\)"),
        (tar(("a.png", A), ("a.cls", b"-1")), "the label of 'a.png' in the shard x.tar is -1"),
        (tar(("a.png", A), ("a.cls", b"9" * 12)), "is 999999999999"),
        (tar(("a.png", A), ("a.txt", b"\xff")), "no text in UTF-8"),
        (tar(("a.png", A), ("a.txt", b" ")), "neither an integer nor a name"),
        (tar(("a.png", A), ("a.txt", b"x" * 2**21)), "has 2,097,152 bytes: no label is that long"),
        (tar(("a.png", A), ("a.json", b"{}")), r"by dataset.label=json.KEY\."),
        (tar(("a.png", A), ("a.json", b"{}"), ("a.txt", b"x")), "by dataset.label=json.KEY or txt"),
        (tar(), "holds no image"),
        (tar(("README.md", b"")), "holds no image"),
        (b"", "no tar archive"),
        (b"<html>" * 200, "no tar archive"),
        (gzip.compress(WHOLE), "is compressed"),
        (WHOLE[: WHOLE.rindex(b"s0002.cls") + 513], "truncated or damaged"),
        (WHOLE[: WHOLE.rindex(b"s0002.cls")], "damaged in or behind 's0002.png'"),
        (WHOLE[: WHOLE.rindex(b"s0002.png") + 520], "damaged in or behind 's0002.png'"),
        (WHOLE.replace(b"s0001.cls", b"s0001.clx"), "damaged in or behind 's0001.png'"),
    ],
)  # fmt: skip
def test_each_fault_is_one_message(content, message):
    with pytest.raises(UserError, match=message) as refused:
        scanned(content)
    assert "x.tar" in str(refused.value)


@pytest.mark.parametrize(
    ("label", "text", "message"),
    [
        ("json.label", {"class": 1}, "is no JSON object with 'label'"),
        ("json.label", [1], "is no JSON object with 'label'"),
        ("json.label", {"label": 1.5}, "is 1.5, neither"),
        ("json.label", {"label": True}, "is True, neither"),
        ("txt", {"label": 1}, "has no label .txt"),
    ],
)
def test_a_label_that_is_none_is_one_message(label, text, message):
    with pytest.raises(UserError, match=message):
        scanned(tar(("a.png", A), ("a.json", json.dumps(text).encode())), label)


def test_numbers_and_names_do_not_mix():
    content = tar(("a.png", A), ("a.json", b'{"k": 1}'), ("b.png", A), ("b.json", b'{"k": "cat"}'))
    with pytest.raises(UserError, match=r"numbers of classes and names .* as 'cat'"):
        scanned(content, "json.k")


def test_a_sparse_member_is_refused():
    with io.BytesIO() as file:
        entry = tarfile.TarInfo("a.png")
        entry.type, entry.size = tarfile.GNUTYPE_SPARSE, 0
        file.write(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        with pytest.raises(UserError, match=r"holds 'a.png'"):
            scanned(file.getvalue())
