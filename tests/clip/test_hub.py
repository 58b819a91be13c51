"""Models on the Hugging Face Hub, which a server on this machine stands for."""

import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file

from src.classifier.classifier import load
from src.clip import hub
from src.clip.model import FrozenClip
from src.clip.weights import weights_id
from src.errors import UserError
from tests.cli import below, finish, result, start

TINY = Path(__file__).parents[2] / "src/clip/tiny"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
NAME = "hf-hub:someone/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the files of `someone/tiny`; `cut` and `swapped` set faults of what is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {
            CONFIG: (TINY / CONFIG).read_bytes(),
            WEIGHTS: (TINY / "model.safetensors").read_bytes(),
        }
        self.cut: list[int] = []  # for each of the next responses, the bytes after which it ends
        self.swapped = False  # a bit of what is sent is not what was published
        self.error = ""  # of every response, as the Hub names it
        self.seen: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server = self.server
        server.seen.append(f"{self.command} {self.path}")
        repository, _, rest = self.path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        content = server.files.get(name)
        error = server.error
        if not error and (repository != "someone/tiny" or revision not in ("main", COMMIT)):
            error = "RepoNotFound"
        if not error and content is None:
            error = "EntryNotFound"
        if error or content is None:
            self.send_response({"GatedRepo": 403, "RepoNotFound": 401}.get(error, 404))
            self.send_header("X-Error-Code", error)
            self.send_header("X-Error-Message", "no")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if name == CONFIG:
            tag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        else:
            tag = hashlib.sha256(content).hexdigest()
        offset = 0
        if wanted := self.headers["Range"]:
            offset = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if server.swapped and name == WEIGHTS:
            content = content[:-1] + bytes([content[-1] ^ 1])
        body = content[offset:]
        self.send_response(206 if offset else 200)
        self.send_header("ETag", f'"{tag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: server.cut.pop(0)] if server.cut else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        template = f"{running.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def cached(tmp_path: Path, name: str) -> Path:
    return tmp_path / "hub/models--someone--tiny/snapshots" / COMMIT / name


def test_a_model_is_fetched_once_and_is_that_of_its_folder(server: Hub) -> None:
    clip = FrozenClip.load(NAME, None)
    # Whatever is asked again, it is of the commit that the configuration is of.
    fetched = [path for path in server.seen if path.startswith("GET /someone")]
    assert fetched == [
        f"GET /someone/tiny/resolve/main/{CONFIG}",
        f"GET /someone/tiny/resolve/{COMMIT}/{WEIGHTS}",
    ]
    own = FrozenClip.load(f"local-dir:{TINY}", None)
    assert all(map(torch.equal, clip.state_dict().values(), own.state_dict().values()))
    assert str(clip.preprocess) == str(own.preprocess)
    assert clip.tokenizer.context_length == 32

    server.seen.clear()
    assert weights_id(NAME, None) == weights_id(f"local-dir:{TINY}", None)
    FrozenClip.load(NAME, None)
    assert server.seen == []


def test_a_pickle_is_read_where_there_is_nothing_better(server: Hub, tmp_path: Path) -> None:
    weights = load_file(TINY / "model.safetensors")
    del server.files[WEIGHTS]
    torch.save(weights, tmp_path / "pickle.bin")
    server.files["open_clip_pytorch_model.bin"] = (tmp_path / "pickle.bin").read_bytes()
    clip = FrozenClip.load(NAME, None)
    assert torch.equal(clip.model.visual.proj, weights["visual.proj"])


class Exploit:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("touched"),)


def test_a_pickle_that_would_run_code_is_refused(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    del server.files[WEIGHTS]
    torch.save({"state_dict": Exploit()}, tmp_path / "pickle.bin")
    server.files["open_clip_pytorch_model.bin"] = (tmp_path / "pickle.bin").read_bytes()
    with pytest.raises(UserError, match=r"pytorch_model\.bin does not hold weights of"):
        FrozenClip.load(NAME, None)
    assert not (tmp_path / "touched").exists()


def test_the_download_goes_on_where_it_was_cut(server: Hub, tmp_path: Path) -> None:
    server.cut = [10_000, 1_000_000]  # of the configuration nothing is cut, for it is shorter
    FrozenClip.load(NAME, None)
    assert sum(WEIGHTS in path and path.startswith("GET") for path in server.seen) == 2
    assert cached(tmp_path, WEIGHTS).read_bytes() == server.files[WEIGHTS]


def test_what_was_not_published_is_refused_when_it_arrives_and_later(
    server: Hub, tmp_path: Path
) -> None:
    server.swapped = True
    with pytest.raises(UserError, match=r"is not what was published.*: remove ") as raised:
        FrozenClip.load(NAME, None)
    blob = Path(str(raised.value).partition("remove ")[2].partition(",")[0])
    with pytest.raises(UserError, match=r"is not what was published"):
        weights_id(NAME, None)  # it is in the cache now
    blob.unlink()
    server.swapped = False
    assert weights_id(NAME, None) == weights_id(f"local-dir:{TINY}", None)

    stored = cached(tmp_path, WEIGHTS).resolve()
    stored.write_bytes(stored.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match=r"damaged on this disk: remove .*, and it is fetched"):
        weights_id(NAME, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no configuration", r"holds no open_clip_config\.json, so it is no model of open_clip"),
        ("no weights", r"someone/tiny holds neither open_clip_model\.safetensors nor"),
        ("gated", r"someone/tiny is open only to those who accepted its terms: .* `hf auth login`"),
        ("unknown", r"there is no .*/someone/tiny, or it is not public: correct backbone\.arch"),
        ("half", r"open_clip_config\.json does not describe a model of open_clip: JSONDecodeError"),
        ("list", r"open_clip_config\.json does not describe a model of open_clip: TypeError"),
        ("huge", r"does not describe a model of open_clip: ValueError: it has 2,"),
        ("code", r"open_clip_config\.json wants trust_remote_code"),
        ("strange", r"open_clip_config\.json does not describe a model of open_clip: .*pach_size"),
        ("others", r"open_clip_model\.safetensors does not hold weights of hf-hub:someone/tiny"),
    ],
)
def test_what_is_no_model_is_refused(
    server: Hub, tmp_path: Path, change: str, message: str
) -> None:
    config = json.loads(server.files[CONFIG])
    if change == "no configuration":
        del server.files[CONFIG]
    elif change == "no weights":
        del server.files[WEIGHTS]
    elif change in ("gated", "unknown"):
        server.error = {"gated": "GatedRepo", "unknown": "RepoNotFound"}[change]
    elif change == "half":
        server.files[CONFIG] = server.files[CONFIG][:40]
    elif change == "list":
        server.files[CONFIG] = b"[1, 2]"
    elif change == "huge":
        server.files[CONFIG] += b" " * (2 << 20)
    elif change == "code":
        config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    elif change == "strange":
        config["model_cfg"]["vision_cfg"]["pach_size"] = 8
    else:
        save_file({"visual.proj": torch.zeros(3)}, tmp_path / "others.safetensors")
        server.files[WEIGHTS] = (tmp_path / "others.safetensors").read_bytes()
    if change in ("code", "strange"):
        server.files[CONFIG] = json.dumps(config).encode()
    with pytest.raises(UserError, match=message):
        FrozenClip.load(NAME, None)


@pytest.mark.parametrize("name", ["hf-hub:tiny", "hf-hub:", "hf-hub:a/b/c", "hf-hub:../tiny"])
def test_a_malformed_name_is_refused_without_a_request(server: Hub, name: str) -> None:
    with pytest.raises(UserError, match=r"names no model: write hf-hub:owner/name"):
        weights_id(name, None)
    assert server.seen == []


def test_a_tag_beside_it_is_refused(server: Hub) -> None:
    with pytest.raises(UserError, match="always loads the weights in its repository"):
        weights_id(NAME, "openai")
    assert server.seen == []


def test_without_a_network_one_message_says_what_to_fetch_and_that_works(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with caplog.at_level(logging.WARNING), pytest.raises(UserError) as raised:
        weights_id(NAME, None)
    message = str(raised.value)
    for file in (CONFIG, WEIGHTS):
        assert f"{server.address}/someone/tiny/resolve/main/{file}" in message
    assert "backbone.architecture=local-dir:/path/to/that/folder" in message
    assert caplog.text == ""
    assert server.seen == []
    (tmp_path / "folder").mkdir()
    for file in (CONFIG, WEIGHTS):
        (tmp_path / "folder" / file).write_bytes(server.files[file])
    assert weights_id(f"local-dir:{tmp_path}/folder", None) == weights_id(f"local-dir:{TINY}", None)


def test_an_unreachable_hub_is_told_at_once(
    server: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def unreachable(*arguments: str, **_: object) -> str:
        asked.append(arguments[1])
        return server.address

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    closed = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", closed)
    with pytest.raises(UserError, match=r"cannot fetch hf-hub:someone/tiny\. .*Connect"):
        weights_id(NAME, None)
    assert asked == []  # it would try again and again
    assert "Retrying" not in "".join(capfd.readouterr())


def test_what_is_cached_needs_no_network(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.folder(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.folder(NAME) == folder


@pytest.mark.slow
def test_a_command_runs_with_a_model_of_the_hub(server: Hub, tmp_path: Path) -> None:
    environment = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home")}
    environment |= {"no_proxy": "127.0.0.1", "HF_HUB_CACHE": str(tmp_path / "commands")}
    arguments = [
        *below(tmp_path), "dataset=digits", "method=zero_shot", f"backbone.architecture={NAME}",
        "logger=none",
    ]  # fmt: skip
    done = finish(start("src.run", *arguments, **environment))
    assert done.returncode == 0, done.stderr
    record = result(tmp_path)
    assert record["backbone"] == "hub-someone_tiny"
    assert record["architecture"] == NAME
    assert record["weights"] == weights_id(f"local-dir:{TINY}", None)
    # The classifier knows its backbone again.
    assert load(tmp_path / "output").predict(Image.new("RGB", (32, 32)))
