import re
from html import escape

import pytest

from src.errors import UserError
from src.results import index, page
from tests.results.test_formats import NASTY
from tests.results.test_record import made_up


def report(folder, **changes):
    made_up(**changes).write(folder / "0")
    page.write_report([folder], folder / "report")


def test_every_report_below_some_folders_is_linked(tmp_path):
    report(tmp_path / "a b")
    report(tmp_path / "c", method="coop")
    written = index.write_index([tmp_path / "a b", tmp_path], tmp_path / "site")
    text = written.read_text()
    links = re.findall(r'<a href="([^"]*)">([^<]*)</a>', text)
    assert links == [
        ("../a%20b/report/report.html", "digits, tiny, calip"),
        ("../c/report/report.html", "digits, tiny, coop"),
    ]
    assert written == tmp_path / "site/index.html"
    assert (tmp_path / "site/../a b/report/report.html").is_file()


def test_what_is_damaged_is_left_out_and_named(tmp_path, caplog):
    report(tmp_path / "a")
    report(tmp_path / "b")
    report(tmp_path / "c")
    (tmp_path / "b/report/report.json").write_text('{"subject": 3}')
    (tmp_path / "c/report/report.html").unlink()
    text = index.write_index([tmp_path], tmp_path).read_text()
    assert text.count("<a href=") == 1
    (message,) = caplog.messages
    assert str(tmp_path / "b/report/report.json") in message


@pytest.mark.parametrize(("folder", "message"), [("nowhere", "is missing"), ("", "no report")])
def test_without_reports_there_is_one_message(tmp_path, folder, message):
    with pytest.raises(UserError, match=message):
        index.write_index([tmp_path / folder], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("subject", NASTY)
def test_a_subject_is_only_a_subject(tmp_path, subject):
    about = index.About(subject, 1, 0, subject, subject)
    (tmp_path / "report.json").write_text(about.text())
    (tmp_path / "report.html").touch()
    assert index.About.read(tmp_path / "report.json") == about
    text = index.write_index([tmp_path], tmp_path).read_text()
    assert f'<a href="report.html">{escape(subject).replace("&#x27;", "&#39;")}</a>' in text
