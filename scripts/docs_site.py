"""What the site of the documentation needs beyond mkdocs.yml: the pages of the repository's root, and GitHub's anchors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Pages that stand in the root, where people look for them first, and the names that they have in the site.
FROM_ROOT = {
    "README.md": "start.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}


def on_files(files: Files, *, config: Any) -> Files:
    """Add the root's pages to those of `docs/`."""
    for name, page in FROM_ROOT.items():
        files.append(File.generated(config, page, content=_as_in_docs((ROOT / name).read_text(encoding="utf-8"))))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """A page as the site's renderer understands it, with its links to the root's pages led to their places in the site."""
    up = "../" * (page.file.src_uri.count("/") + 1)
    for name, there in FROM_ROOT.items():
        markdown = markdown.replace(f"]({up}{name}", f"]({up.removesuffix('../')}{there}")
    markdown = markdown.replace("](decisions/)", "](decisions/001-vendored-pip.md)")
    # What stands behind a fence's language is for the tests of the documentation; the renderer takes it for no fence.
    return re.sub(r"^(```\w+) .*$", r"\1", markdown, flags=re.MULTILINE)


def anchor(heading: str, separator: str) -> str:
    """GitHub's anchor of a heading, so that a link works there and here."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", separator)


def _as_in_docs(markdown: str) -> str:
    """A root's page with its links as they are from `docs/`. What is no page of the site is named, not linked."""
    for name, there in FROM_ROOT.items():
        markdown = markdown.replace(f"]({name}", f"]({there}")
    markdown = markdown.replace("](docs/", "](").replace('src="docs/', 'src="')
    return re.sub(r"\[([^]]+)\]\((?!https?:|#)(?![\w/-]+\.(?:md|png|svg))[^)]*\)", r"\1", markdown)
