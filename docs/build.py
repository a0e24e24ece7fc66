"""Builds the pages as HTML, without a network: `python docs/build.py [FOLDER]`, by default into `docs/html`."""

from __future__ import annotations

import re
import sys
from html import escape
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt

DOCS: Final = Path(__file__).parent
_STYLE: Final = (
    "body{max-width:60rem;margin:2rem auto;padding:0 1rem;font:16px/1.5 sans-serif}"
    "pre{background:#f4f4f4;padding:.8rem;overflow:auto}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.3rem .6rem}"
)
_PAGE_LINK: Final = re.compile(r'href="([^":]+)\.md(#[^"]*)?"')


def build(target: Path) -> list[Path]:
    """Write every page below `docs` to the same place below `target`, and a list of them. Gives the files."""
    markdown = MarkdownIt("commonmark").enable("table")
    written = []
    for source in sorted(DOCS.rglob("*.md")):
        text = source.read_text()
        title = next((line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")), source.stem)
        file = (target / source.relative_to(DOCS)).with_suffix(".html")
        _write(file, title, _PAGE_LINK.sub(r'href="\1.html\2"', markdown.render(text)))
        written.append(file)
    links = "".join(f'<li><a href="{file.relative_to(target)}">{file.relative_to(target)}</a></li>' for file in written)
    index = target / "index.html"
    _write(index, "Postward", f"<h1>Postward</h1><ul>{links}</ul>")
    return [index, *written]


def _write(file: Path, title: str, body: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    file.write_text(f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n')


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "html")
