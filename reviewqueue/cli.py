"""The commands: `python -m reviewqueue NOUN VERB …`. Exit 0 on success, 1 on a refusal, 2 on bad usage.

A command only reads its arguments, calls a verb and says what came of it; it must never decide anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from reviewqueue.config import KEY_NAMES, Settings, create_keys, current, describe, rotate_key
from reviewqueue.models.people import ROLES
from reviewqueue.running import keeping, replaying, startup
from reviewqueue.shell import Commands, Refused, as_json, in_app, put


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Human review of LLM outputs: everything an operator does from a shell."""


@main.group()
def people() -> None:
    """Who signs in."""


@people.command("add")
@click.argument("email")
@click.option("--role", required=True, type=click.Choice(ROLES))
@click.option("--name", help="How others see this person; default: the part before the @.")
@click.option("--password-stdin", is_flag=True, help="Read a password from standard input.")
@as_json
@in_app
def add_person(email: str, role: str, name: str | None, password_stdin: bool, as_json: bool) -> None:
    """Add a person; prints a one-time sign-in link unless a password comes on standard input."""
    from reviewqueue.people import sign_in
    from reviewqueue.people.access import SYSTEM

    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else None
    person, token = sign_in.add_person(SYSTEM, email, role, name=name, password=password)
    link = f"{current().public_url}/login/link/{token}" if token else None
    answer = {"id": person.id, "email": person.email, "name": person.name, "role": person.role, "link": link}
    said = [f"added {person.email} as {person.role}"]
    put(as_json, answer, *said, *([f"sign in once, within 72 hours: {link}"] if link else []))


@main.group()
def projects() -> None:
    """What is reviewed, by which policy."""


@projects.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@as_json
@in_app
def apply_project(file: Path, as_json: bool) -> None:
    """Create or update a project from its file; prints what changed."""
    from reviewqueue.people.access import SYSTEM
    from reviewqueue.routing import projects as verbs

    applied = verbs.apply(file, SYSTEM)
    name = applied.project.name
    answer = {
        "project": name,
        "created": applied.created,
        "policy_version": applied.policy_version,
        "changes": applied.changes,
    }
    put(as_json, answer, *(applied.changes or [f"{name}: nothing changed"]))


@main.group()
def backends() -> None:
    """Which programs submit items."""


@backends.command("add")
@click.argument("name")
@click.option("--project", required=True)
@click.option("--callback", help="Where decisions are sent.")
@click.option(
    "--trusted", is_flag=True, help="Skip the challenge; for addresses in REVIEWQUEUE_CALLBACK_ALLOW."
)
@as_json
@in_app
def add_backend(name: str, project: str, callback: str | None, trusted: bool, as_json: bool) -> None:
    """Add a backend; prints its key and secrets as JSON, this once."""
    from reviewqueue.delivery import endpoints
    from reviewqueue.people import backends as verbs
    from reviewqueue.people.access import SYSTEM

    if trusted and callback is None:
        raise click.UsageError("--trusted says something about --callback, which is missing")
    if callback is not None:
        endpoints.check(callback, trusted=trusted)  # before there is a backend without a callback
    new = verbs.add_backend(SYSTEM, name, project)
    secrets = {"inbound_secret": new.inbound_secret, "callback_secret": new.callback_secret}
    put(True, {"backend": new.backend.name, "api_key": new.api_key, **secrets})
    if callback is not None:
        endpoints.register(SYSTEM, new.backend.id, callback, trusted=trusted)
        if not trusted:
            outcome = endpoints.prove(SYSTEM, new.backend.id)
            if not outcome.ok:
                click.echo(f"the callback is not active yet: {outcome.message}", err=True)


@main.group()
def items() -> None:
    """LLM outputs, in and out."""


@items.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--project", required=True)
@click.option("--backend", help="Whose items these are; default: the project's only backend.")
@as_json
@in_app
def import_items(file: Path, project: str, backend: str | None, as_json: bool) -> None:
    """Submit each line of a file; what came before is not submitted twice. Exit 1 when a line is refused."""
    from reviewqueue.intake.bulk import import_lines
    from reviewqueue.people.access import SYSTEM

    count = {"submitted": 0, "known": 0, "refused": 0}
    with file.open("rb") as lines, _bar(file.stat().st_size, "importing") as bar:
        for done in import_lines(SYSTEM, project, _counted(lines, bar.update), backend):
            if done.refusal is not None:
                click.echo(f"{file.name}:{done.number}: {done.refusal.message}", err=True)
                count["refused"] += 1
            else:
                count["known" if done.answer and done.answer.replayed else "submitted"] += 1
    put(as_json, count, ", ".join(f"{number} {word}" for word, number in count.items()))
    if count["refused"]:
        raise click.exceptions.Exit(1)


def _bar(length: int, label: str) -> Any:
    """A progress bar on standard error, where that is a terminal."""
    return click.progressbar(length=length, label=label, file=sys.stderr)


def _counted(lines: Iterable[bytes], count: Callable[[int], None]) -> Iterator[bytes]:
    for line in lines:
        count(len(line))
        yield line


@items.command("export")
@click.option("--project", required=True)
@as_json
@in_app
def export_items(project: str, as_json: bool) -> None:
    """Print every item of a project as the API would answer it, one a line, oldest first."""
    from reviewqueue.intake.bulk import export_lines
    from reviewqueue.people.access import SYSTEM

    for line in export_lines(SYSTEM, project):
        click.echo(line, nl=False)


@main.group()
def examples() -> None:
    """Corrections, for prompts and for training."""


@examples.command("export")
@click.option("--project", required=True)
@click.option("--format", "form", required=True, type=click.Choice(("jsonl", "openai-chat", "dpo", "csv")))
@as_json
@in_app
def export_examples(project: str, form: str, as_json: bool) -> None:
    """Print a project's examples; a spreadsheet opens the csv without formulas."""
    from reviewqueue.examples.export import export
    from reviewqueue.people.access import SYSTEM
    from reviewqueue.routing.projects import project_named

    for line in export(SYSTEM, project_named(project), form):
        click.echo(line, nl=False)


@main.group()
def keys() -> None:
    """The deployment's own keys, one file each."""


@keys.command("create")
@as_json
def create(as_json: bool) -> None:
    """Make the keys that are missing; none is ever overwritten."""
    settings = Settings.load(os.environ)
    try:
        made = create_keys(settings.keys_dir)
    except OSError as error:
        raise Refused(f"keys cannot be made in {settings.keys_dir}: {error.strerror}") from None
    kept = [name for name in KEY_NAMES if name not in made]
    lines = [*(f"made {name}" for name in made), *(f"kept {name}" for name in kept)]
    if made:
        lines.append(f"now: copy {settings.keys_dir} to every machine of the deployment, and back it up")
    put(as_json, {"folder": str(settings.keys_dir), "made": made, "kept": kept}, *lines)


@keys.command("rotate")
@click.argument("name", type=click.Choice(KEY_NAMES))
@as_json
def rotate(name: str, as_json: bool) -> None:
    """Replace a key by a new one; the old one is kept beside it."""
    if name != "session":
        # What these keys sealed names the one that opens it, and there is one of each so far.
        raise Refused(f"the {name} key cannot be rotated: what it sealed could not be read any more")
    settings = Settings.load(os.environ)
    old = rotate_key(settings.keys_dir, name)
    lines = [f"made a new {name} key; the old one is {old.name}"]
    lines.append(f"now: copy {settings.keys_dir} to every machine and restart every web process")
    put(as_json, {"rotated": name, "old": str(old)}, *lines)


@main.group()
def ledger() -> None:
    """What happened, for good."""


@ledger.command("verify")
@as_json
@in_app
def verify_ledger(as_json: bool) -> None:
    """Check the whole ledger; exit 1 and the first bad entry when anything was changed."""
    from reviewqueue.ledger.verify import verify

    report = verify()
    bad = f"entry {report.first_bad}" if report.first_bad is not None else "the ledger"
    line = f"{report.entries} entries, nothing was changed" if report.ok else f"{bad}: {report.problem}"
    put(as_json, asdict(report), line)
    if not report.ok:
        raise click.exceptions.Exit(1)


main.add_command(replaying.deliveries_commands)
main.add_command(keeping.backup_command)
main.add_command(keeping.restore_command)
ledger.add_command(keeping.acknowledge_command)


@main.command()
@as_json
def doctor(as_json: bool) -> None:
    """What is wrong or risky here, one finding a line; exit 1 when something must be mended."""
    from reviewqueue.running.doctor import examine

    findings = examine(os.environ)
    lines = [f"{found.level:7} {found.id:22} {found.problem} → {found.remedy}" for found in findings]
    put(as_json, {"findings": [asdict(found) for found in findings]}, *(lines or ["nothing found"]))
    if any(found.level == "error" for found in findings):
        raise click.exceptions.Exit(1)


@main.command()
@as_json
def settings(as_json: bool) -> None:
    """Every setting: name, default and meaning."""
    listed = [dict(zip(("name", "default", "meaning"), each, strict=True)) for each in describe()]
    lines = [f"{each['name']:28} {each['default'] or '-':16} {each['meaning']}" for each in listed]
    put(as_json, {"settings": listed}, *lines)
    Settings.load(os.environ)  # whoever looks at the list has often misspelt one: that is told as well


@main.command()
@as_json
def migrate(as_json: bool) -> None:
    """Bring the database to the newest schema."""
    from reviewqueue import create_base, schema

    with create_base(startup.load()).app_context():
        changed = schema.migrate()
        answer = {"changed": changed, "schema": schema.version()}
    put(as_json, answer, f"schema {answer['schema']}" + ("" if changed else ", as before"))


@main.command()
@click.option("--burst", is_flag=True, help="Stop when nothing waits.")
@as_json
def worker(burst: bool, as_json: bool) -> None:
    """Do background jobs; run as many as you like, on as many machines."""
    from reviewqueue.background import work

    work(startup.open_for_jobs(stays=not burst), burst=burst)
    if burst:
        put(as_json, {"done": True}, "nothing waits")


@main.command()
@click.option("--once", is_flag=True, help="Do all that is due here and now, then stop.")
@as_json
def relay(once: bool, as_json: bool) -> None:
    """See to it that nothing due is forgotten; one leads, others stand by."""
    from reviewqueue.running.relay import relay as lead

    done = lead(startup.open_for_jobs(stays=not once), once=once)
    if once:
        put(as_json, {"done": done}, *(f"{name}: {count}" for name, count in done.items()))


@main.command()
@click.option("--history", metavar="FILE", type=click.Path(dir_okay=False, resolve_path=True, path_type=Path),
              help="Append a line of JSON for every claim, renewal, decision and read.")  # fmt: skip
@as_json
def web(history: Path | None, as_json: bool) -> None:
    """Serve pages and the API with gunicorn at REVIEWQUEUE_BIND."""
    from reviewqueue.running import webserver

    settings = startup.load()
    startup.open_base(settings)
    root = str(Path(__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = webserver.command(settings, recording=history)
    os.execv(command[0], command)
