"""The shape of the product, read from its syntax trees: who imports whom, how long, what is never written.

A budget that is overrun stands in a short list with its reason; a layer that is crossed never does.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "reviewqueue"
FILES = sorted(PACKAGE.rglob("*.py"))

# Imports run downstream, as items do: a file imports from its own folder and from those to the right.
STREAM = (
    "insight", "intake", "routing", "desk", "finding", "review", "delivery", "examples", "people", "ledger",
    "content",
)  # fmt: skip
# Each may import those before it, and nothing else of ours.
GROUND = (
    "errors",
    "ids",
    "text",
    "strict_json",
    "config",
    "seams",
    "disk",
    "prepared",
    "writer",
    "db",
    "models",
    "background",
    "schema",
)
# Beside these every pages.py, api.py, jobs.py and …_pages.py is an edge.
EDGES = (
    "admission", "answers", "cli", "lists", "logs", "metrics", "shell", "site", "web", "__main__", "__init__",
)  # fmt: skip
# A folder of edges alone: how the product is run, on one machine or on many.
RUNNING = "running"
# Edges that other edges may use.
SHARED = ("admission", "answers", "lists", "logs", "metrics", "web")
# Verbs that use all folders, as a client would.
OVER_ALL = ("demo",)
APART = ("client",)  # for backends; can be copied out

# About 300 and about 40: what is over by a few lines is not yet two things.
FILE_LINES, FUNCTION_LINES = 320, 45
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}


def name_of(path: Path) -> str:
    """`review/claim` for reviewqueue/review/claim.py, `web` for reviewqueue/web.py."""
    return str(path.relative_to(PACKAGE).with_suffix(""))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> set[str]:
    """Every module a file imports, wherever in it; `from x import y` is x.y when y is a module of ours."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            for alias in node.names:
                place = PACKAGE.parent / Path(*module.split("."), alias.name)
                ours = module.split(".")[0] == "reviewqueue"
                is_module = ours and (place.with_suffix(".py").exists() or place.is_dir())
                found.add(f"{module}.{alias.name}" if is_module else module)
    return found


def ours(path: Path) -> set[str]:
    """The files of ours a file imports, as `name_of` would say."""
    found = {name for name in imported(path) if name.split(".")[0] == "reviewqueue"}
    return {"/".join(name.split(".")[1:]) or "__init__" for name in found}


def kind_of(name: str) -> str:
    """ground, verb, edge, door (a folder's __init__), apart or unknown."""
    folder, _, file = name.rpartition("/")
    if folder:
        if folder == "models":
            return "ground"
        if file == "__init__":
            return "door"
        if folder == RUNNING:
            return "edge"
        return "edge" if re.fullmatch(r"(.+_)?(pages|api|jobs)", file) else "verb"
    for kind, names in (("ground", GROUND), ("edge", EDGES), ("verb", OVER_ALL), ("apart", APART)):
        if name in names:
            return kind
    return "unknown"


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def parametrised(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", files, ids=lambda path: str(path.relative_to(ROOT)))


@parametrised(FILES)
def test_imports_run_downstream(path):
    name = name_of(path)
    kind, folder = kind_of(name), name.split("/")[0]
    assert kind != "unknown", "is it ground or an edge? Say so at the top of this test"
    for other in ours(path):
        target = kind_of(other) if other not in (*STREAM, "models") else "door"
        if kind == "ground":
            assert other.split("/")[0] in GROUND, f"ground imports {other}"
            mine, theirs = GROUND.index(folder), GROUND.index(other.split("/")[0])
            assert theirs <= mine, f"{name} imports {other}, which stands on it"
        elif kind in ("verb", "door"):
            assert target in ("ground", "verb", "door"), f"a verb imports the edge {other}"
            if other.split("/")[0] in STREAM and folder in STREAM:
                assert STREAM.index(other.split("/")[0]) >= STREAM.index(folder), (
                    f"{name} imports {other} upstream"
                )
        elif kind == "apart":
            pytest.fail(f"{name} imports {other}: it could not be copied out")
        elif target == "edge" and "/" in name and folder != RUNNING:
            same = other.split("/")[0] == folder
            assert same or other in SHARED, f"{name} imports the edge {other}"


@parametrised(FILES)
def test_only_background_knows_rq_and_redis(path):
    if name_of(path) != "background":
        assert not {name.split(".")[0] for name in imported(path)} & {"rq", "redis"}


@parametrised([path for path in FILES if kind_of(name_of(path)) in ("verb", "door")])
def test_verbs_know_no_web_framework(path):
    known = {name.split(".")[0] for name in imported(path)}
    assert not known & {"flask", "werkzeug", "jinja2", "flask_wtf", "flask_login", "htmx_flask", "flask_htmx"}


@parametrised(FILES)
def test_a_function_opens_at_most_one_transaction(path):
    for function in functions(tree_of(path)):
        inner = {id(node) for nested in ast.walk(function) if nested is not function
                 and isinstance(nested, ast.FunctionDef) for node in ast.walk(nested)}  # fmt: skip
        opened = [
            node
            for node in ast.walk(function)
            if isinstance(node, ast.With)
            and id(node) not in inner
            and any(_calls(item.context_expr, "transaction") for item in node.items)
        ]
        if (name := f"{name_of(path)}.{function.name}") not in TWO_TRANSACTIONS:
            assert len(opened) <= 1, name


# What happens between two transactions, so that none is open while it happens.
TWO_TRANSACTIONS: dict[str, str] = {}


def _calls(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


@parametrised([path for path in FILES if kind_of(name_of(path)) == "verb"])
def test_verbs_write_inside_a_transaction_of_their_own_or_their_callers(path):
    """commit() is db.py's alone; a helper that adds rows has its session from somebody's transaction."""
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"\.commit\(\)", source)
    assert not re.search(r"\bdb\.session\.(add|add_all|delete|merge|flush)\(", source)


@parametrised(FILES)
def test_the_clock_is_read_in_one_place(path):
    if name_of(path) in ("seams", "config", "client"):
        return
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"datetime\.(now|utcnow|today)\(|\btime\.time\(", source), (
        "take the time from db.now()"
    )


@parametrised(FILES)
def test_files_and_functions_keep_their_budgets(path):
    name, source = name_of(path), path.read_text(encoding="utf-8")
    if name not in LONG_FILES:
        assert len(source.splitlines()) <= FILE_LINES
    for function in functions(ast.parse(source)):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        length = (function.end_lineno or 0) - body[0].lineno + 1 if body else 0
        if f"{name}.{function.name}" not in LONG_FUNCTIONS:
            assert length <= FUNCTION_LINES, f"{function.name} has {length} lines"


def test_lists_of_exceptions_hold_nothing_that_has_become_short():
    for name in LONG_FILES:
        assert len((PACKAGE / f"{name}.py").read_text().splitlines()) > FILE_LINES, name
    for name in LONG_FUNCTIONS:
        file, _, function = name.rpartition(".")
        assert any(node.name == function for node in functions(tree_of(PACKAGE / f"{file}.py"))), name


@parametrised(FILES)
def test_files_say_what_they_own(path):
    tree = tree_of(path)
    said = ast.get_docstring(tree)
    assert said, "no docstring"
    if path.name == "__init__.py" and path.parent != PACKAGE:
        assert len(said.splitlines()) <= 4, "a door sign has at most four lines"
    for node in tree.body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        assert not public or ast.get_docstring(node), f"{node.name} has no docstring"


@parametrised(FILES)
def test_names_say_something(path):
    empty = {
        "utils",
        "util",
        "helpers",
        "helper",
        "common",
        "manager",
        "service",
        "services",
        "handler",
        "handlers",
    }
    assert not empty & set(path.relative_to(PACKAGE).with_suffix("").parts)


TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
NEVER = {
    "a value trusted as markup": r"\|\s*safe\b|autoescape\s+false|\bMarkup\(",
    "an inline script": r"<script\b(?![^>]*\ssrc=)",
    "an inline style": r"<style\b|\sstyle\s*=",
    "an event attribute": r"<[^>]*\son[a-z]+\s*=",
    "htmx that evaluates": r"\bhx-(on|vals\s*=\s*[\"']js:|vars)\b|\bhx-vals\s*=\s*[\"']js:",
    "something loaded from elsewhere": r"<(?:script|link|img)\b[^>]*(?:src|href)\s*=\s*[\"'](?:https?:|//)",
    "something embedded": r"<(?:object|embed|iframe|base)\b",
}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
def test_templates_hold_nothing_a_strict_policy_refuses(path):
    source = re.sub(r"\{#.*?#\}", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for what, pattern in NEVER.items():
        assert not re.search(pattern, source, re.I), what


# Where text becomes markup, after it has passed an allow-list.
MAKES_MARKUP = ("content/show",)


@parametrised([path for path in FILES if name_of(path) not in MAKES_MARKUP])
def test_markup_is_made_in_one_place(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Markup":
            constant = len(node.args) == 1 and isinstance(node.args[0], ast.Constant)
            assert constant, f"line {node.lineno} calls Markup on a value"


def test_the_tree_in_the_readme_is_the_real_one():
    """A folder drawn without its files stands for all of them."""
    shown = set(_shown((ROOT / "README.md").read_text(encoding="utf-8")))
    real = {str(path.relative_to(ROOT)) for path in FILES}
    gone = {path for path in shown if path.startswith("reviewqueue/")} - real
    assert not gone, f"the README shows what is not there: {sorted(gone)}"
    drawn = {str(Path(path).parent) for path in shown if not path.endswith("__init__.py")}
    closed = {str(Path(path).parent) for path in shown} - drawn
    left_out = {path for path in real - shown if str(Path(path).parent) not in closed}
    assert not left_out, f"the README does not show {sorted(left_out)}"


def _shown(text: str) -> Iterator[str]:
    """The paths in the fenced block that draws reviewqueue/ as a tree; a line may name several files."""
    blocks = [part for part in re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL) if "├── " in part]
    assert len(blocks) == 1, "the README draws the tree once, in a fenced block, with ├── and └──"
    (block,) = blocks
    folders: list[str] = []
    for line in block.splitlines():
        found = re.match(r"^((?:[│ ] {3})*(?:[├└]── )?)(\S+(?: \S+)*)", line)
        if not found or found[2][0] in "│├└":  # a description that goes on
            continue
        depth = len(found[1]) // 4
        folders = folders[:depth]
        for name in found[2].split(" "):
            if name.endswith("/"):
                folders = [*folders[:depth], name.rstrip("/")]
                yield "/".join([*folders, "__init__.py"])
            elif name.endswith(".py"):
                yield "/".join([*folders[:depth], name])
            else:
                break
