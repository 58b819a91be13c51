"""Shards behind an address, which a server on this machine stands for."""

import pickle

import pytest

from src.data import network
from src.data.webdataset import remote
from src.data.webdataset.index import FOLDER
from src.errors import UserError
from tests.data.webdataset.making import dataset, png, samples, serving, shade, tar


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(network, "PAUSES_S", (0, 0))
    with serving() as running:
        running.files = {
            "/test-0.tar": tar(*samples(0, 6)),
            "/test-1.tar": tar(*samples(6, 4)),
        }
        yield running


def read(server, store, query="", user=""):
    pattern = server.url("test-{0..1}.tar", user) + query
    return dataset(store, None, {"test": pattern})


def test_images_are_read_by_ranges(server, tmp_path):
    images = read(server, tmp_path)
    assert [shade(images, item) for item in images.splits["test"]] == list(range(10))
    assert images.where(images.splits["test"][7]) == f"{server.url('test-1.tar')}: s0007.png"
    assert images.root == server.url("test-{0..1}.tar")
    assert all(wanted for _, wanted, *_ in server.seen)


def test_an_index_that_is_ready_costs_one_byte_of_each_shard(server, tmp_path):
    first = read(server, tmp_path)
    server.seen.clear()
    again = read(server, tmp_path)
    assert [(wanted, sent) for _, wanted, sent, _ in server.seen] == [("bytes=0-0", 1)] * 2
    prints = [one.fingerprint(one.splits["test"]) for one in (first, again)]
    assert prints[0] == prints[1]


def test_images_are_passed_over_by_one_answer_unless_they_are_large(server, tmp_path, monkeypatch):
    bodies = [bytes([number]) * 100_000 for number in range(4)]
    members = [
        member
        for number, body in enumerate(bodies)
        for member in ((f"{number}.png", body), (f"{number}.cls", b"%d" % (number % 2)))
    ]
    server.files = {"/test-0.tar": tar(*members), "/test-1.tar": tar(*samples(6, 4))}
    for gap, least, answers in ((1 << 20, 400_000, 1), (1 << 12, 0, 5)):
        monkeypatch.setattr(remote, "GAP_BYTES", gap)
        server.seen.clear()
        read(server, tmp_path / str(gap))
        streamed = [sent for path, wanted, sent, _ in server.seen
                    if path == "/test-0.tar" and wanted.endswith("-")]  # fmt: skip
        assert len(streamed) == answers
        assert sum(streamed) >= least


def test_images_that_follow_each_other_are_fetched_together(server, tmp_path):
    server.files["/test-0.tar"] = tar(*samples(0, 100))
    server.files["/test-1.tar"] = tar(*samples(100, 4))
    images = read(server, tmp_path)
    test = images.splits["test"]
    server.seen.clear()
    assert [shade(images, item) for item in test] == list(range(104))
    assert len(server.seen) < 20
    server.seen.clear()
    assert [shade(images, test[row]) for row in (80, 3, 40)] == [80, 3, 40]
    assert all(sent == len(png(80)) for _, _, sent, _ in server.seen)


def test_a_connection_that_ends_early_goes_on_where_it_stopped(server, tmp_path):
    server.drop_after = [1, 1, 1500, 3000, 10**6, 700]
    images = read(server, tmp_path)
    starts = [wanted for path, wanted, *_ in server.seen if not wanted.startswith("bytes=0-")]
    assert starts  # nothing began at 0 again
    server.drop_after = [10]
    assert shade(images, images.splits["test"][3]) == 3


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_passing_failure_is_waited_out(server, tmp_path, status):
    server.failures = [status, status]
    assert len(read(server, tmp_path).splits["test"]) == 10


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"files": {}}, "HTTP Error 404"),
        ({"failures": [403] * 9}, "HTTP Error 403"),
        ({"failures": [500] * 99}, "HTTP Error 500"),
        ({"ranges": False}, r"gives no parts of files \(HTTP ranges\).* `wget -c`"),
        ({"files": {"/test-0.tar": b"", "/test-1.tar": b""}}, "the file is empty"),
    ],
)
def test_a_lasting_failure_is_one_message(server, tmp_path, fault, message):
    for name, value in fault.items():
        setattr(server, name, value)
    with pytest.raises(UserError, match=message):
        read(server, tmp_path)


def test_too_few_bytes_are_noticed(server, tmp_path):
    images = read(server, tmp_path)
    server.cut = 3
    with pytest.raises(UserError, match=r"cannot read the shard .*test-0.tar: .* of .* bytes came"):
        images.load(images.splits["test"][0])


def test_a_server_that_is_gone_is_one_message(server, tmp_path, monkeypatch):
    pattern = "http://127.0.0.1:9/{0..1}.tar"
    with pytest.raises(
        UserError, match=r"cannot read the shard http://127.0.0.1:9/\d.tar: .*refused"
    ):
        dataset(tmp_path, None, {"test": pattern})


@pytest.mark.parametrize("tags", [True, False])
def test_a_shard_that_is_replaced_is_noticed(server, tmp_path, tags):
    server.tags = tags
    before = read(server, tmp_path)
    old = server.files["/test-1.tar"]
    server.files["/test-1.tar"] = tar(*samples(60, 4))
    assert len(server.files["/test-1.tar"]) == len(old)
    with pytest.raises(UserError, match=r"test-1.tar was replaced while it was read"):
        before.load(before.splits["test"][8])
    server.seen.clear()
    after = read(server, tmp_path)
    assert {path for path, wanted, *_ in server.seen if wanted.endswith("-")} == {"/test-1.tar"}
    assert shade(after, after.splits["test"][8]) == 62
    assert before.fingerprint(before.splits["test"]) != after.fingerprint(after.splits["test"])


def test_what_is_secret_in_an_address_is_written_nowhere(server, tmp_path, caplog):
    caplog.set_level(0)
    images = read(server, tmp_path, "?key=hush", "me:hush@")
    assert {authorization for *_, authorization in server.seen} == {"Basic bWU6aHVzaA=="}
    assert {path.partition("?")[2] for path, *_ in server.seen} == {"key=hush"}
    told = [images.root, images.where(images.splits["test"][0]), caplog.text]
    server.failures = [404] * 9
    with pytest.raises(UserError, match=r"\*\*\*@127.0.0.1:\d+/test-\d.tar\?\*\*\*") as refused:
        read(server, tmp_path, "?key=hush", "me:hush@")
    assert "hush" not in " ".join([*told, str(refused.value)])
    for path in (tmp_path / FOLDER).iterdir():
        assert b"hush" not in path.name.encode() + path.read_bytes()


def test_a_password_is_not_passed_on_to_another_server(server, tmp_path):
    with serving() as other:
        other.files = server.files
        server.moved = {f"/test-{number}.tar": other.url(f"test-{number}.tar") for number in (0, 1)}
        assert len(read(server, tmp_path, user="me:hush@").splits["test"]) == 10
        assert {authorization for *_, authorization in other.seen} == {None}


def test_workers_are_given_the_dataset(server, tmp_path):
    images = pickle.loads(pickle.dumps(read(server, tmp_path)))
    assert shade(images, images.splits["test"][9]) == 9
