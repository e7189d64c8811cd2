"""A project's file, read and checked as a whole; faults are named by file, line, field and remedy.

Must never read a file that does not stand right beside the project's own.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reviewqueue.content.fields import check_schema
from reviewqueue.errors import Fault, Invalid
from reviewqueue.routing.rules import SLUG, PolicyBody, parse_policy
from reviewqueue.routing.wording import Place, faults

GUIDELINES_LIMIT = 100_000  # characters
REASONS = ["wrong fact", "tone", "unsafe", "format", "other"]
CAUSES = ["prompt", "retrieval", "model", "tool", "input", "other"]

_FILE_NAME = re.compile(r"[\w.-]+")
_TEXT_FILE = re.compile(r"\S+\.(?:md|markdown|txt)")
_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"""\s*("[^"]*"|'[^']*'|[A-Za-z0-9_-]+)\s*(?:\.|=)""")
_TOKEN = re.compile(
    r"""\"\"\".*?\"\"\"|'''.*?'''|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*|[\[\]{}]|\n""", re.DOTALL
)

Word = Annotated[str, Field(min_length=1, max_length=200)]


class _Reply(BaseModel):
    """A text that reviewers put into an output or a note by choosing its name."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: Word
    text: Annotated[str, Field(min_length=1, max_length=10_000)]


class _File(BaseModel):
    """The top level of the file, as it is written."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: Annotated[str, Field(max_length=64, pattern=f"^{SLUG}$")]
    title: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    kind: Literal["text", "markdown", "json", "label", "chat", "tool_call"]
    guidelines: Annotated[str, Field(max_length=GUIDELINES_LIMIT)] = ""
    schema_: Any = Field(None, alias="schema")
    reasons: Annotated[list[Word], Field(min_length=1, max_length=50)] = REASONS
    causes: Annotated[list[Word], Field(min_length=1, max_length=50)] = CAUSES
    control_arm: Annotated[float, Field(ge=0, le=1)] = 0.0
    replies: Annotated[list[_Reply], Field(max_length=50)] = []
    policy: dict[str, Any] = {}


@dataclass(frozen=True)
class ProjectFile:
    """A project as its file says, with defaults filled in and the files beside it read."""

    name: str
    title: str
    kind: str
    guidelines: str
    schema: Any
    reasons: list[str]
    causes: list[str]
    control_arm: float
    replies: list[dict[str, str]]
    policy: PolicyBody


def read(source: Path | str, folder: Path | None = None) -> ProjectFile:
    """The project in the file `source`, or in the text `source`; Invalid names line, field and remedy.

    `folder` is where the guidelines and schema of a text stand.
    """
    if isinstance(source, Path) or ("\n" not in source and source.endswith(".toml")):
        path = Path(source)
        return _Reader(_text_of(path, path.name), path.name, path.parent).project()
    return _Reader(source, "project file", folder).project()


def _text_of(path: Path, name: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Invalid(f"{name} cannot be read: {reason}", "project_file", field="") from None


class _Reader:
    """One text, while it is being read."""

    def __init__(self, text: str, name: str, folder: Path | None) -> None:
        self.text, self.name, self.folder = text, name, folder

    def project(self) -> ProjectFile:
        try:
            table = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            line = _TOML_LINE.search(str(error))
            where = f" line {line[1]}" if line else ""
            said = _TOML_LINE.sub("", str(error)).strip()
            message = f"{self.name}{where}: this is not TOML: {said}"
            raise Invalid(message, "project_file", field="") from None
        try:
            file = _File.model_validate(table)
        except ValidationError as error:
            self.refuse([(self._unaliased(place), said) for place, said in faults(error, _File)])
        except RecursionError:
            self.refuse([((), "is nested too deep")])
        names = [reply.name for reply in file.replies]
        for field, words in (("reasons", file.reasons), ("causes", file.causes), ("replies", names)):
            if len(set(words)) < len(words):
                self.refuse([((field,), "must not have the same entry twice")])
        return ProjectFile(
            name=file.name,
            title=file.title or file.name.replace("-", " ").capitalize(),
            kind=file.kind,
            guidelines=self._guidelines(file.guidelines),
            schema=self._schema(file.kind, file.schema_),
            reasons=file.reasons,
            causes=file.causes,
            control_arm=file.control_arm,
            replies=[reply.model_dump() for reply in file.replies],
            policy=self._policy(file.policy),
        )

    def refuse(self, found: list[tuple[Place, str]]) -> NoReturn:
        """Invalid with every fault, the first one as its message."""
        errors: list[Fault] = []
        for place, said in found:
            line = _line_of(self.text, place)
            where = f"{self.name} line {line}" if line else self.name
            field = ".".join(map(str, place))
            errors.append({"pointer": field, "message": f"{where}: {field} {said}".replace("  ", " ")})
        raise Invalid("\n".join(error["message"] for error in errors), "project_file", errors=errors)

    @staticmethod
    def _unaliased(place: Place) -> Place:
        return tuple("schema" if step == "schema_" else step for step in place)

    def _policy(self, table: dict[str, Any]) -> PolicyBody:
        try:
            return parse_policy(table)
        except Invalid as refused:
            self.refuse([(_place(fault["pointer"]), fault["message"]) for fault in refused.errors])

    def _beside(self, field: str, name: str) -> str:
        if not _FILE_NAME.fullmatch(name) or self.folder is None:
            self.refuse([((field,), f"names {name}, which is no file next to this one")])
        try:
            return _text_of(self.folder / name, name)
        except Invalid as refused:
            self.refuse([((field,), f"names a file next to this one, but {refused.message}")])

    def _guidelines(self, given: str) -> str:
        text = given
        if _TEXT_FILE.fullmatch(given.strip()):
            text = self._beside("guidelines", given.strip())
        if "\x00" in text or len(text) > GUIDELINES_LIMIT:
            self.refuse([(("guidelines",), f"must be text of at most {GUIDELINES_LIMIT} characters")])
        return text

    def _schema(self, kind: str, given: Any) -> Any:
        if given is None:
            if kind == "label":
                wanted = 'is required for kind label: schema = { enum = ["…", "…"] }, or a file with that'
                self.refuse([(("schema",), wanted)])
            return None
        name = "schema"
        if isinstance(given, str):
            name = given
            try:
                given = json.loads(self._beside("schema", given))
            except (ValueError, RecursionError) as error:
                self.refuse([(("schema",), f"names {name}, which is not JSON: {error}")])
        if not isinstance(given, dict):
            self.refuse([(("schema",), "must be a JSON Schema: an object, or the name of a file with one")])
        wrong = check_schema(given, kind)
        if wrong:
            told = [f"{fault['pointer'] or 'the schema'} {fault['message']}" for fault in wrong]
            self.refuse([(("schema",), f"({name}) cannot be used: {one}") for one in told])
        return given


def _place(pointer: str) -> Place:
    return tuple(int(step) if step.isdigit() else step for step in pointer.split("."))


def _line_of(text: str, place: Sequence[str | int]) -> int | None:
    """The line (from 1) of the key or entry at `place`, or of the closest thing around it.

    tomllib gives lines for broken syntax only; `text` is one that it accepted. Only a guess: never relied on.
    """
    lines = dict(_places(text))
    for length in range(len(place), 0, -1):
        if tuple(place[:length]) in lines:
            return lines[tuple(place[:length])]
    return None


def _places(text: str) -> Iterator[tuple[Place, int]]:
    """Every table header and key with its line; entries of inline lists of tables as well."""
    table: Place = ()
    counts: dict[Place, int] = {}
    lines = text.split("\n")
    depths = _depths(text)
    inside: Place | None = None  # the key whose value goes on over several lines
    entry = 0
    for number, line in enumerate(lines, 1):
        if inside is not None and depths[number - 1] > 0:
            entry, places = _entries(line, inside, entry, number)
            yield from places
            continue
        inside = None
        header, key = _HEADER.match(line), _KEY.match(line)
        if header:
            table = tuple(part.strip().strip("\"'") for part in header[2].split("."))
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            yield table, number
        elif key:
            inside = (*table, key[1].strip("\"'"))
            yield inside, number
            entry, places = _entries(line[key.end() :], inside, 0, number)
            yield from places


def _entries(line: str, inside: Place, entry: int, number: int) -> tuple[int, list[tuple[Place, int]]]:
    opened = sum(token == "{" for token in _TOKEN.findall(line))
    places: list[tuple[Place, int]] = [((*inside, entry + step), number) for step in range(opened)]
    return entry + opened, places


def _depths(text: str) -> list[int]:
    """How many brackets are open where each line begins; 1 inside a text of several lines."""
    depths, depth = [0], 0
    for token in _TOKEN.findall(text):
        if token == "\n":
            depths.append(depth)
        elif token in ("[", "{"):
            depth += 1
        elif token in ("]", "}"):
            depth -= 1
        elif "\n" in token:
            depths += [depth + 1] * token.count("\n")
    return depths
