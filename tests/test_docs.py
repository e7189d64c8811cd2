"""Every command and snippet of the documentation runs as it stands, in the order in which it stands.

Blocks marked `sh`, `python` and `js` are run in one folder against one running stack; `text` and unmarked
blocks, and tables, are read by people alone. Addresses in the texts are exchanged for those of the test.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.pictures import MOST, NAMES, SIZES, THEMES
from tests.servers import MISSING
from tests.stacks import ROOT, Stack, environ, running

DOCS = ["docs/backends.md", "docs/leads.md", "docs/operators.md", "docs/reviewers.md", "README.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
RUN = ("sh", "python", "js")
SERVER = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    data_dir = tmp_path_factory.mktemp("docs") / "var"
    with running(data_dir, REVIEWQUEUE_CALLBACK_ALLOW="127.0.0.0/8") as stack:
        yield stack


@pytest.fixture(scope="module")
def desk(stack: Stack) -> Path:
    """The folder in which a reader of the documentation works, from one page to the next."""
    folder = stack.data_dir.parent / "work"
    folder.mkdir()
    return folder


def blocks(document: str) -> list[tuple[str, str]]:
    """(language, text) of each block that is to be run."""
    return [found for found in BLOCK.findall((ROOT / document).read_text()) if found[0] in RUN]


def run(language: str, text: str, desk: Path, stack: Stack, exported: dict[str, str]) -> str:
    """Run one block as a reader would; gives what it printed, and remembers what it exported."""
    command = {
        "sh": ["bash", "-euo", "pipefail", "-c", text + "\nenv -0 > .environ"],
        "python": [sys.executable, "-c", text],
        "js": ["node", "--input-type=module", "-e", text],
    }[language]
    known = environ(stack.data_dir, REVIEWQUEUE_CALLBACK_ALLOW="127.0.0.0/8", PYTHONPATH=str(ROOT))
    # `python` is the one that has reviewqueue installed.
    known |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | exported
    done = subprocess.run(
        command, cwd=desk, env=known, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{text}\n→ {done.stdout}{done.stderr}"
    if language == "sh":
        after = dict(
            pair.split("=", 1) for pair in (desk / ".environ").read_text().split("\0") if "=" in pair
        )
        exported |= {name: value for name, value in after.items() if name.startswith("RQ_")}
    return done.stdout


@pytest.mark.parametrize("document", DOCS)
def test_every_snippet_of_the_documentation_runs(document: str, desk: Path, stack: Stack) -> None:
    exported: dict[str, str] = {}
    if document != "docs/backends.md" and not (desk / "replies.toml").exists():
        # The other pages speak of the project that the first one makes.
        for language, text in blocks("docs/backends.md")[:2]:
            run(language, text.replace(SERVER, stack.url), desk, stack, exported)
    for language, text in blocks(document):
        if language == "js" and not node():
            pytest.skip(f"{MISSING} node")
        printed = run(language, text.replace(SERVER, stack.url), desk, stack, exported)
        if "/api/v1/items" in text and language == "sh":
            assert '"status":"pending"' in printed.replace(" ", ""), printed
        if "verifyCallback" in text or "verify_callback" in text:
            assert "decision.final" in printed


def test_every_command_of_make_in_the_documentation_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for document in [*DOCS, "CONTRIBUTING.md"]:
        named = set(re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", (ROOT / document).read_text(), re.M))
        assert {word for pair in named for word in pair if word} <= targets, document


def test_every_link_between_documents_leads_somewhere() -> None:
    for document in [*DOCS, "CONTRIBUTING.md"]:
        path = ROOT / document
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{document} links to {target}"


def test_every_picture_is_there_and_nothing_else() -> None:
    """What a document shows exists in both themes; what `make screenshots` takes is all there, and small."""
    taken = {f"{name}-{theme}-{width}.png" for name in NAMES for theme in THEMES for width in SIZES}
    there = {file.name: file.stat().st_size for file in (ROOT / "docs/images").glob("*.png")}
    assert there.keys() == taken
    assert sum(there.values()) <= MOST
    shown = set()
    for document in [*DOCS, "CONTRIBUTING.md"]:
        text = (ROOT / document).read_text()
        for tag in re.findall(r"<(?:img|source)\b[^>]*>", text):
            (target,) = re.findall(r'(?:src|srcset)="([^"]+)"', tag)
            assert ((ROOT / document).parent / target).exists(), f"{document} shows {target}"
            assert tag.startswith("<source") or re.search(r'alt="[^"]{20,}"', tag), (
                f"{target} is not described"
            )
            shown.add(target.rpartition("/")[2])
    assert {re.sub("-light-", "-dark-", name) for name in shown} <= shown, "shown in one theme alone"


def node() -> bool:
    return any((Path(folder) / "node").exists() for folder in os.environ["PATH"].split(":"))
