import pytest

from src.data.text_files import listing, read_lines
from src.errors import UserError


def test_a_listing_is_cut():
    assert listing(list("abcdefg"), []) == "'a', 'b', 'c', 'd', 'e' and 2 more"


def test_lines_are_stripped_and_blank_ones_left_out(tmp_path):
    (tmp_path / "names.txt").write_bytes("\ufeffb\r\n\r\n  été x \n".encode())
    assert read_lines(tmp_path / "names.txt", "Fetch it.") == ["b", "été x"]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "is missing"), (b"\xff", "is not text"), (b" \n", "is empty")]
)
def test_what_is_no_list_is_named_with_its_remedy(tmp_path, content, message):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"names\.txt {message}.* Fetch it\."):
        read_lines(path, "Fetch it.")
