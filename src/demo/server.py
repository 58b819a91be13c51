"""The page in a browser: gradio, which sends nothing anywhere, behind a server of our own."""

import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from src.classifier.classifier import Classifier, load
from src.command_line import printable
from src.demo import page
from src.demo.answer import classify
from src.demo.settings import Settings
from src.errors import UserError

LARGEST = "50mb"
"""Of a file that is dropped."""
POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # gradio's own page has both
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
"""What a browser may load for the page: nothing from any other host."""
UPLOADS, ANALYTICS = "GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"


def run(settings: Settings) -> None:
    """Serve the page until a signal ends the command; uploads are removed with it.

    Raises:
        UserError: the classifier cannot be loaded, or the address not be listened at.
    """
    with listening(settings.host, settings.port) as heard, tempfile.TemporaryDirectory() as uploads:
        classifier = load(settings.model)
        os.environ |= {UPLOADS: uploads, ANALYTICS: "False"}  # read when gradio is imported
        server = make_server(classifier, settings.model)
        host, port = heard.getsockname()[:2]
        where = f"[{host}]" if ":" in host else host
        title = page.title(classifier.about)
        print(printable(f"{title} at http://{where}:{port} (Ctrl-C ends it)"), flush=True)
        server.run(sockets=[heard])


def listening(host: str, port: int) -> socket.socket:
    """Open a socket that listens.

    Raises:
        UserError: the port is in use, or the host is none of this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # create_server says again where
        raise UserError(
            f"cannot listen at host={host} port={port}: {reason}. Choose another port (port=0 is "
            "any free one) or host."
        ) from None


def make_server(classifier: Classifier, folder: str) -> Any:
    """Make the uvicorn server of the page.

    Args:
        classifier: answers, one picture at a time.
        folder: where it lies, as the user typed it.
    """
    import gradio
    import uvicorn
    from fastapi import FastAPI

    about = classifier.about
    clouds = about.view_weights is not None

    def respond(dropped: tuple[Path, str]) -> tuple[None, str]:
        path, name = dropped
        try:
            if not path.is_file():  # the same picture was dropped twice, and removed once
                raise UserError(f"{name} was removed meanwhile: drop it again.")
            return None, page.answer(about, classify(classifier, path, name))
        except UserError as error:
            return None, page.mistake(str(error))
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # another one of this content is not done yet
                path.parent.rmdir()

    with gradio.Blocks(
        title=f"Calipers: {page.title(about)}", analytics_enabled=False, delete_cache=(60, 600)
    ) as blocks:
        shown: Any = {"js_on_load": None, "apply_default_css": False, "elem_classes": "page"}
        gradio.HTML(page.header(about), **shown)
        drop: Any = gradio.File(
            label="point cloud" if clouds else "picture",
            show_label=False,
            file_types=[".npy"] if clouds else ["image"],
            height=170,
            elem_id="drop",
        )
        drop.async_move_resource_to_block_cache, drop.preprocess = _uploaded, _given
        answer = gradio.HTML("", **shown)
        gradio.HTML(page.panel(about, folder), **shown)
        drop.upload(
            respond,
            drop,
            [drop, answer],
            api_visibility="private",
            show_progress="minimal",
            show_progress_on=drop,
        )
    app = gradio.mount_gradio_app(
        FastAPI(openapi_url=None),
        blocks.queue(max_size=32, default_concurrency_limit=1),
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=LARGEST,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=gradio.themes.Base(font="sans-serif", font_mono="monospace"),
        js="() => document.body.classList.remove('dark')",
        css_paths=[Path(__file__).with_name("page.css")],
    )
    app.add_middleware(_Guarded)
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))


async def _uploaded(named: str) -> str:
    """Say where an upload lies, in place of gradio's method of `File`, which does more than that.

    It fetches URLs, and takes every file of this machine: what a request may name is checked only
    within gradio's own server.
    """
    path = Path(named).resolve()
    if Path(os.environ[UPLOADS]).resolve() not in path.parents:
        from gradio import Error

        raise Error("This is no upload.", print_exception=False)
    return str(path)


def _given(payload: Any) -> tuple[Path, str]:
    """Give path and name, in place of `File.preprocess`, which leaves an empty file each time."""
    path = Path(payload.path)
    return path, payload.orig_name or path.name


class _Guarded:
    """Adds `POLICY` to every response."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"], (b"content-security-policy", POLICY.encode())
                ]  # fmt: skip
            await send(message)

        await self.app(scope, receive, sending)
