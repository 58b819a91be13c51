"""Sphinx's configuration: `make docs` builds the manual from docs/*.md into build/docs, offline."""

import tomllib
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]

project = "Calipers"
author = "the Calipers authors"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser"]
exclude_patterns = ["_templates"]
myst_heading_anchors = 3  # so that [text](page.md#heading) is checked as well
nitpicky = True
html_theme = "furo"
html_title = f"Calipers {version}"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

REPAIRED = (
    # The keyboard scrolls what is wider than the page.
    ('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
    ("<pre>", '<pre tabindex="0">'),
    # Landmarks and headings of the theme that a screen reader cannot tell apart.
    ('<aside class="sidebar-drawer"', '<aside aria-label="Pages" class="sidebar-drawer"'),
    ('<aside class="toc-drawer', '<aside aria-label="On this page" class="toc-drawer'),
    ('class="caption" role="heading"', 'class="caption" role="heading" aria-level="2"'),
    ('<div id="search-results">', '<h1>Search</h1>\n<div id="search-results">'),
)
"""What is written in place of what into every page, for readers without a mouse or a screen."""


def repair(app: Sphinx, exception: Exception | None) -> None:
    """Rewrite the built pages by `REPAIRED`, those that an earlier build repaired excepted."""
    if exception is not None or app.builder.name != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for was, becomes in REPAIRED:
            if becomes not in text:
                text = text.replace(was, becomes)
        path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Add what this manual does to Sphinx's pages."""
    app.connect("build-finished", repair)
