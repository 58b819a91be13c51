import errno
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from src.data import archive as archive_module
from src.data import download as download_module
from src.data import network
from src.data.download import WORKSPACE, Download, fetch
from src.errors import UserError

IMAGES = {"set/images/a.png": b"A" * 5000, "set/images/cats/b.png": b"B" * 70_000}
TEXT = {**IMAGES, "set/read_me.txt": b"not wanted"}


class Server(ThreadingHTTPServer):
    """Serves `files` by path; `resumable` and `drop_after` set its faults."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.resumable = True
        self.drop_after = []  # for each of the next responses, the bytes after which it ends
        self.failures = []  # error statuses of the next responses
        self.pause_s = 0
        self.drip_s = 0  # the pause after each byte
        self.says_length = True
        self.seen = []  # (path, Range header, bytes sent)
        self.agents = set()

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def download(self, name, content, to, member=None, algorithm="sha256"):
        self.files[f"/{name}"] = content
        digest = hashlib.new(algorithm, content).hexdigest()
        return Download(self.url(name), f"{algorithm}:{digest}", to, member)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.agents.add(self.headers["User-Agent"])
        content = server.files.get(self.path)
        status = server.failures.pop(0) if server.failures else 200 if content else 404
        wanted = self.headers["Range"]
        if status == 200 and wanted and server.resumable:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status, content = (206, content[start:]) if start < len(content) else (416, b"")
        body = content if status in (200, 206) else b""
        sent = body[: server.drop_after.pop(0)] if server.drop_after else body
        server.seen.append((self.path, wanted, len(sent)))
        time.sleep(server.pause_s)
        self.send_response(status)
        if server.says_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not server.drip_s:
            self.wfile.write(sent)
            return
        with suppress(OSError):  # the client has left
            for byte in sent:
                self.wfile.write(bytes([byte]))
                time.sleep(server.drip_s)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(network, "PAUSES_S", (0, 0))
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def without_bytes(value):
    """Name an archive in a test's id: its bytes hold the time, and processes must agree on ids."""
    return "archive" if isinstance(value, bytes) else None


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def tarred(*members, compression="gz"):
    """Make a tar archive of (name, bytes) files and of ready `TarInfo`s."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=f"w:{compression}") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                entry = tarfile.TarInfo(member[0])
                entry.size = len(member[1])
                archive.addfile(entry, io.BytesIO(member[1]))
    return content.getvalue()


def link(name, target, kind=tarfile.SYMTYPE):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def zip_with_link(target):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        entry = zipfile.ZipInfo("set/link")
        entry.create_system, entry.external_attr = 3, 0o120777 << 16
        archive.writestr(entry, target)
    return content.getvalue()


def files_below(root):
    """List every file and link below `root`, except the lock."""
    paths = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}
    return paths - {f"{WORKSPACE}/lock"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("set.zip", zipped(TEXT)),
        ("set.tar.gz", tarred(*TEXT.items())),
        ("set.tar", tarred(*TEXT.items(), compression="")),
    ],
    ids=without_bytes,
)
def test_an_archive_leaves_only_the_wanted_folder(server, tmp_path, name, content):
    root = tmp_path / "eurosat"
    fetch(server.download(name, content, to="deep/2750", member="set/images"), root)
    assert files_below(root) == {"deep/2750/a.png", "deep/2750/cats/b.png"}
    assert (root / "deep/2750/cats/b.png").read_bytes() == IMAGES["set/images/cats/b.png"]
    assert len(server.seen) == 1
    assert "Python" not in server.agents.pop()


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_plain_file_takes_its_place(server, tmp_path, algorithm):
    fetch(server.download("a%20b.json?x=1", b"{}", "split.json", algorithm=algorithm), tmp_path)
    assert files_below(tmp_path) == {"split.json"}
    assert (tmp_path / "split.json").read_bytes() == b"{}"


def test_the_whole_archive_can_become_the_root(server, tmp_path):
    download = server.download("set.zip", zipped(TEXT), to=".", member="set")
    fetch(download, tmp_path)
    assert files_below(tmp_path) == {"read_me.txt", "images/a.png", "images/cats/b.png"}
    fetch(download, tmp_path)
    assert len(server.seen) == 1


def test_a_root_that_a_killed_process_half_filled_is_completed(server, tmp_path):
    content = zipped(TEXT)
    download = server.download("set.zip", content, to=".", member="set")
    (tmp_path / WORKSPACE / "unpacked/set").mkdir(parents=True)
    (tmp_path / WORKSPACE / "unpacked/set/leftover").touch()
    (tmp_path / WORKSPACE / "set.zip").write_bytes(content)
    (tmp_path / "images/cats").mkdir(parents=True)
    for name, data in IMAGES.items():
        (tmp_path / name.removeprefix("set/")).write_bytes(data)
    fetch(download, tmp_path)
    assert files_below(tmp_path) == {"read_me.txt", "images/a.png", "images/cats/b.png"}
    assert server.seen == []


def test_an_archive_inside_the_archive_is_opened(server, tmp_path):
    inner = tarred(*TEXT.items())
    content = zipped({"outer/inner.tar.gz": inner, "outer/notes.txt": b""})
    fetch(server.download("set.zip", content, "images", "outer/inner.tar.gz/set/images"), tmp_path)
    assert files_below(tmp_path) == {"images/a.png", "images/cats/b.png"}


def test_an_interrupted_transfer_fetches_only_the_rest(server, tmp_path):
    content = os.urandom(300_000)
    server.drop_after = [100_000]
    fetch(server.download("x.bin", content, "x.bin"), tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == content
    assert server.seen == [("/x.bin", None, 100_000), ("/x.bin", "bytes=100000-", 200_000)]


def test_a_later_run_resumes_what_an_earlier_one_gave_up(server, tmp_path):
    content = os.urandom(300_000)
    download = server.download("x.bin", content, "x.bin")
    server.drop_after = [100_000, 50_000, 0]
    with pytest.raises(UserError, match="ended after 150,000 of 300,000 bytes"):
        fetch(download, tmp_path)
    assert files_below(tmp_path) == {f"{WORKSPACE}/x.bin.part"}
    fetch(download, tmp_path)
    assert server.seen[-1] == ("/x.bin", "bytes=150000-", 150_000)
    assert (tmp_path / "x.bin").read_bytes() == content


def test_a_transfer_that_is_already_complete_is_not_repeated(server, tmp_path):
    content = os.urandom(1000)
    (tmp_path / WORKSPACE).mkdir()
    (tmp_path / WORKSPACE / "x.bin.part").write_bytes(content)
    fetch(server.download("x.bin", content, "x.bin"), tmp_path)
    assert server.seen == [("/x.bin", "bytes=1000-", 0)]
    assert (tmp_path / "x.bin").read_bytes() == content


def test_a_server_that_cannot_resume_starts_over(server, tmp_path):
    content = os.urandom(300_000)
    server.resumable = False
    server.drop_after = [100_000]
    fetch(server.download("x.bin", content, "x.bin"), tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == content
    assert [sent for _, _, sent in server.seen] == [100_000, 300_000]


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.failures = [503, 429]
    fetch(server.download("x.bin", b"x", "x.bin"), tmp_path)
    assert len(server.seen) == 3


@pytest.mark.parametrize("member", [None, "set"])
def test_a_wrong_checksum_is_refused_and_removed(server, tmp_path, member):
    content = zipped(TEXT)
    server.files["/set.zip"] = content
    download = Download(server.url("set.zip"), f"md5:{'0' * 32}", "images", member)
    actual = hashlib.md5(content).hexdigest()
    with pytest.raises(UserError, match=f"{actual}, not md5:{'0' * 32}.*removed"):
        fetch(download, tmp_path)
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        (zipped({"set/a": b"1", "../evil": b"2"}), "../evil"),
        (zipped({"set/a": b"1", "set/..\\..\\evil": b"2"}), "evil"),
        (zipped({"set/a": b"1", "/tmp/evil": b"2"}), "/tmp/evil"),
        (zip_with_link("/etc/passwd"), "set/link"),
        (tarred(("set/a", b"1"), ("../evil", b"2")), "../evil"),
        (tarred(("set/a", b"1"), ("set/../../evil", b"2")), "set/../../evil"),
        (tarred(("set/a", b"1"), ("/tmp/evil", b"2")), "/tmp/evil"),
        (tarred(("set/a", b"1"), link("set/link", "/etc/passwd")), "set/link"),
        (tarred(("set/a", b"1"), link("set/link", "../../..")), "set/link"),
        (tarred(("set/a", b"1"), link("set/hard", "../x", tarfile.LNKTYPE)), "set/hard"),
        (tarred(("set/a", b"1"), link("set/device", "", tarfile.CHRTYPE)), "set/device"),
        (zipped({"set/inner.tar": tarred(("../evil", b"2"))}), "../evil"),
    ],
    ids=without_bytes,
)
def test_a_member_that_leaves_the_folder_is_refused(server, tmp_path, content, culprit):
    root = tmp_path / "a/b"
    member = "set/inner.tar/x" if b"inner.tar" in content else "set"
    with pytest.raises(UserError, match="refused and removed") as raised:
        fetch(server.download("set.bin", content, "images", member), root)
    assert culprit in str(raised.value)
    assert files_below(tmp_path) == {f"a/b/{WORKSPACE}/lock"}


def test_links_are_refused_even_those_that_stay_inside(server, tmp_path):
    """A chain of long enough links leads out of the folder past every check of names."""
    content = tarred(("set/a", b"1"), link("set/b", "a"))
    with pytest.raises(UserError, match=r"'set/b' leads out of the folder .* or is a link"):
        fetch(server.download("set.tar.gz", content, "images", "set"), tmp_path)
    assert files_below(tmp_path) == set()


def deflated(files):
    with zipfile.ZipFile(content := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


@pytest.mark.parametrize(
    "pack", [deflated, lambda files: tarred(*files.items())], ids=["zip", "tar"]
)
def test_an_archive_that_would_fill_the_disk_is_refused(server, tmp_path, pack, monkeypatch):
    monkeypatch.setattr(archive_module, "LEAST_LIMIT", 1 << 20)
    content = pack({f"set/{number}": bytes(1 << 20) for number in range(4)})
    with pytest.raises(UserError, match="more than 1,048,576 bytes would come out of its"):
        fetch(server.download("set.bin", content, "images", "set"), tmp_path)
    assert files_below(tmp_path) == set()


def edited_zip(edit):
    """Make a zip and change the bytes of its records."""
    content = bytearray(zipped({"set/a": b"1" * 100}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        edit(content, content.index(signature) + offset)
    return bytes(content)


def encrypted(content, flags):
    content[flags] |= 1


def of_unknown_method(content, flags):
    content[flags + 2] = 77


def undecodable(content, flags):
    content[flags + 1] |= 0x08  # names are UTF-8
    place = content.index(b"set/a", flags)
    content[place : place + 5] = b"set/\xff"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (edited_zip(encrypted), "cannot be unpacked here.*encrypted"),
        (edited_zip(of_unknown_method), "cannot be unpacked here.*compression method"),
        (edited_zip(undecodable), "cannot be unpacked here|is damaged"),
        (tarred(("set/a", b"1"), ("set/a/b", b"2")), "cannot be unpacked here"),
        (zipped({"set/a": b"1", "set/a/b": b"2"}), "cannot be unpacked here"),
        (tarred((f"set/{'n' * 300}", b"1")), "cannot be unpacked here.*too long"),
        (zipped({f"set/{'n' * 300}": b"1"}), "cannot be unpacked here.*too long"),
    ],
    ids=[
        "encrypted", "method", "name", "file and folder, tar", "file and folder, zip", "long, tar",
        "long, zip",
    ],
)  # fmt: skip
def test_an_archive_that_cannot_be_unpacked_is_the_users_to_mend(
    server, tmp_path, content, message
):
    with pytest.raises(UserError, match=message):
        fetch(server.download("set.bin", content, "images", "set"), tmp_path)
    assert not (tmp_path / "images").exists()


def test_a_transfer_that_would_never_end_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "_GRACE_S", 0.2)
    server.drip_s = 0.05
    with pytest.raises(UserError, match=r"cannot download .*only \d+ bytes came in"):
        fetch(server.download("set.zip", zipped(TEXT), "images", "set"), tmp_path)
    assert not (tmp_path / "images").exists()


def test_a_server_that_does_not_say_how_much_it_sends_is_stopped(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "_LARGEST_BYTES", 1000)
    server.says_length = False
    with pytest.raises(UserError, match="no dataset is that large"):
        fetch(server.download("set.bin", b"x" * 200_000, "set.bin"), tmp_path)
    assert files_below(tmp_path) <= {f"{WORKSPACE}/lock"}


@pytest.mark.parametrize(
    ("content", "member", "message"),
    [
        (zipped(TEXT), "sets", "holds no 'sets'"),
        (b"text", "set", "neither a zip nor a tar"),
        (zipped(TEXT).replace(b"A" * 5000, b"B" * 5000), "set", "set.zip is damaged: Bad CRC"),
        (tarred(*TEXT.items())[:-200], "set", "set.zip is damaged"),
    ],
    ids=without_bytes,
)
def test_a_wrong_member_is_named_and_the_archive_kept(server, tmp_path, content, member, message):
    with pytest.raises(UserError, match=message):
        fetch(server.download("set.zip", content, "images", member), tmp_path)
    assert files_below(tmp_path) == {f"{WORKSPACE}/set.zip"}


def test_a_missing_file_says_where_to_put_it(server, tmp_path):
    checksum = f"sha256:{'0' * 64}"
    cases = [(None, tmp_path / "split.json"), (".", tmp_path / WORKSPACE / "gone set.zip")]
    for member, by_hand in cases:
        download = Download(server.url("gone%20set.zip?x=1"), checksum, "split.json", member)
        with pytest.raises(UserError, match="404") as raised:
            fetch(download, tmp_path)
        assert all(text in str(raised.value) for text in (download.url, str(by_hand), checksum))
    assert len(server.seen) == 2, "a 404 is not worth another attempt"
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid"])
def test_an_unreachable_server_says_where_to_put_the_file(tmp_path, host, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(network, "PAUSES_S", ("no pause: another attempt is pointless",))
    url = f"https://{host}/x.json"
    with pytest.raises(UserError, match="cannot download") as raised:
        fetch(Download(url, "md5:00", "x.json"), tmp_path)
    assert url in str(raised.value)
    assert str(tmp_path / "x.json") in str(raised.value)


def test_an_archive_put_by_hand_is_used(server, tmp_path):
    content = zipped(TEXT)
    download = server.download("set.zip", content, "images", "set/images")
    (tmp_path / WORKSPACE).mkdir()
    (tmp_path / WORKSPACE / "set.zip").write_bytes(content)
    fetch(download, tmp_path)
    assert files_below(tmp_path) == {"images/a.png", "images/cats/b.png"}
    assert server.seen == []


def test_a_damaged_archive_put_by_hand_is_named_and_left(server, tmp_path):
    download = server.download("set.zip", zipped(TEXT), "images", "set/images")
    by_hand = tmp_path / WORKSPACE / "set.zip"
    by_hand.parent.mkdir()
    by_hand.write_bytes(b"half")
    with pytest.raises(UserError, match="not the expected file") as raised:
        fetch(download, tmp_path)
    assert str(by_hand) in str(raised.value)
    assert by_hand.read_bytes() == b"half"


def test_what_is_there_is_not_changed(server, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/mine.png").touch()
    fetch(server.download("set.zip", zipped(TEXT), "images", "set/images"), tmp_path)
    (tmp_path / "split.json").write_bytes(b"{}")
    fetch(server.download("split.json", b"{}", "split.json"), tmp_path)
    assert server.seen == []
    assert {path.name for path in tmp_path.iterdir()} == {"images", "split.json"}


def test_an_empty_folder_counts_as_absent(server, tmp_path):
    (tmp_path / "images").mkdir()
    fetch(server.download("set.zip", zipped(TEXT), "images", "set/images"), tmp_path)
    assert files_below(tmp_path) == {"images/a.png", "images/cats/b.png"}


def test_another_file_is_named_and_never_overwritten(server, tmp_path):
    (tmp_path / "split.json").write_bytes(b"mine")
    with pytest.raises(UserError, match="not the expected file") as raised:
        fetch(server.download("split.json", b"{}", "split.json"), tmp_path)
    assert str(tmp_path / "split.json") in str(raised.value)
    assert (tmp_path / "split.json").read_bytes() == b"mine"
    assert server.seen == []


def test_processes_at_once_share_one_transfer(server, tmp_path):
    download = server.download("set.zip", zipped(TEXT), "images", "set/images")
    server.pause_s = 1  # This is long enough for the other processes to arrive.
    code = "import sys; from src.data.download import *; fetch(Download(*sys.argv[1:]), Path('.'))"
    command = [sys.executable, "-c", code, download.url, download.checksum, "images", "set/images"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [subprocess.Popen(command, cwd=tmp_path, env=environment) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert len(server.seen) == 1
    assert files_below(tmp_path) == {"images/a.png", "images/cats/b.png"}


@pytest.fixture
def small_disk(tmp_path):
    """Mount a real file system of 1 MB."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_transfer_that_fills_the_disk_leaves_nothing(server, small_disk):
    with pytest.raises(UserError, match="disk is full") as raised:
        fetch(server.download("x.bin", os.urandom(2_000_000), "x.bin"), small_disk)
    assert str(small_disk) in str(raised.value)
    assert files_below(small_disk) == set()


@pytest.mark.parametrize("pack", [zipped, lambda files: tarred(*files.items())])
def test_an_archive_that_fills_the_disk_leaves_only_itself(server, small_disk, pack):
    content = pack({"set/a": os.urandom(300_000), "set/b": os.urandom(300_000)})
    with pytest.raises(UserError, match="disk is full"):
        fetch(server.download("set.bin", content, "images", "set"), small_disk)
    assert files_below(small_disk) == {f"{WORKSPACE}/set.bin"}


def test_a_simulated_full_disk_leaves_nothing(server, tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    def full_for_parts(path, mode="r", **settings):
        if path.suffix == ".part" and mode == "wb":
            path.touch()
            return Full()
        return real_open(path, mode, **settings)

    real_open = Path.open
    monkeypatch.setattr(Path, "open", full_for_parts)
    with pytest.raises(UserError, match="disk is full"):
        fetch(server.download("x.bin", b"x", "x.bin"), tmp_path)
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "ftp://host/x"}, "neither http nor https"),
        ({"url": "file:///etc/passwd"}, "neither http nor https"),
        ({"checksum": "0123"}, "md5:<digest>"),
        ({"checksum": "crc32:01"}, "md5:<digest>"),
        ({"to": "../x"}, "leaves its folder"),
        ({"to": "/x"}, "leaves its folder"),
        ({"member": "a/../../x"}, "leaves its folder"),
    ],
)
def test_a_malformed_entry_is_refused(change, message):
    valid = {"url": "https://host/x", "checksum": "md5:01", "to": "x", "member": "y"}
    Download(**valid)
    with pytest.raises(UserError, match=message):
        Download(**(valid | change))


def test_a_single_file_compressed_by_gzip_is_unpacked(tmp_path):
    (tmp_path / "t.h5.gz").write_bytes(gzip.compress(b"x" * 1000))
    archive_module.unpack(tmp_path / "t.h5.gz", tmp_path / "out")
    assert (tmp_path / "out/t.h5").read_bytes() == b"x" * 1000


def test_a_single_file_that_would_fill_the_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "LEAST_LIMIT", 1000)
    (tmp_path / "t.h5.gz").write_bytes(gzip.compress(b"x" * (1 << 20)))
    with pytest.raises(UserError, match="would come out"):
        archive_module.unpack(tmp_path / "t.h5.gz", tmp_path / "out")
