"""The commands that keep what happened: backup, restore, and telling that an older backup was meant.

Only arguments and answers: what is copied and checked is decided in backup.py.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from reviewqueue.config import Settings, create_keys, current
from reviewqueue.running import startup
from reviewqueue.shell import as_json, in_app, put

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("backup")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--with-keys", is_flag=True, help="Copy the keys as well: whoever has the backup has them.")
@as_json
def backup_command(folder: Path, with_keys: bool, as_json: bool) -> None:
    """Copy the database, while everything runs, into DIR, which must be new or empty.

    The keys are not in it unless asked for: keep them apart, a backup is of no use without them.
    """
    from reviewqueue import create_base
    from reviewqueue.running.backup import backup

    # The database is taken as it stands: before an upgrade it is at the older schema.
    with create_base(startup.load()).app_context():
        manifest = backup(current(), folder, with_keys)
    size = manifest["ledger"]["size"] if manifest["ledger"] else 0
    lines = [
        f"backed up to {folder}: {manifest['database']}, schema {manifest['schema']}, {size} ledger entries"
    ]
    lines.append(
        "the keys are in it: keep it as you keep them"
        if with_keys
        else f"the keys are not in it: keep a copy of {current().keys_dir} in another place"
    )
    put(as_json, {"folder": str(folder), **manifest}, *lines)


@click.command("restore")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace what the database holds.")
@as_json
def restore_command(folder: Path, force: bool, as_json: bool) -> None:
    """Put the backup in DIR into the database, migrate and verify it; exit 1 when it does not verify."""
    from reviewqueue import create_base
    from reviewqueue.running import backup

    manifest = backup.read(folder)
    settings = Settings.load(os.environ)
    backup.bring_keys(settings, folder, manifest)
    if settings.env != "production":
        create_keys(settings.keys_dir)
    with create_base(startup.load()).app_context():
        done = backup.restore(settings, folder, manifest, force)
    well = done.report.ok or done.beyond is not None
    lines = [f"restored the backup of {manifest['made_at']}: {done.report.entries} ledger entries"]
    if done.beyond is not None:
        lines.append(f"note: {done.beyond.words}")
    elif not well:
        lines.append(f"it does not verify: {done.report.problem}")
    lines.append("now: restart every web process, worker and relay; everybody signs in again")
    answer = {"restored": str(folder), "made_at": manifest["made_at"], "rolled_back": done.beyond is not None}
    put(as_json, {**answer, "ledger": asdict(done.report)}, *lines)
    if not well:
        raise click.exceptions.Exit(1)


@click.command("acknowledge-rollback")
@as_json
@in_app
def acknowledge_command(as_json: bool) -> None:
    """Record that an older backup was restored on purpose, or that entries are known to be lost."""
    from reviewqueue.ledger import known
    from reviewqueue.people.access import SYSTEM

    recorded = known.acknowledge(SYSTEM.id)
    put(as_json, {"entry": recorded.seq}, f"acknowledged in entry {recorded.seq}")
