"""A backup is made while everything runs and put back whole, or not at all; an older one is noticed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import func, select

from reviewqueue.cli import main
from reviewqueue.db import db, transaction
from reviewqueue.ledger import known
from reviewqueue.ledger.record import record
from reviewqueue.ledger.verify import verify
from reviewqueue.models import Decision, Item, LedgerHead, WebSession


@pytest.fixture
def shell(database, keys_dir, tmp_path, settings):
    """Run a command on the app's own database; its exit status and answer."""

    def run(*words, **environ):
        given = {
            "REVIEWQUEUE_ENV": "test",
            "REVIEWQUEUE_DATA_DIR": str(settings.data_dir),
            "REVIEWQUEUE_KEYS_DIR": str(keys_dir),
            "DATABASE_URL": database,
            "REDIS_URL": settings.redis_url,
        }
        db.session.rollback()
        db.engine.dispose()
        done = CliRunner().invoke(main, [*map(str, words), "--json"], env=given | environ)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, json.loads(done.stdout) if done.stdout else done.stderr

    return run


def counts():
    db.session.rollback()
    tables = (Item, Decision)
    return [db.session.scalar(select(func.count()).select_from(table)) for table in tables]


def size():
    db.session.rollback()
    return db.session.get_one(LedgerHead, 1).size


def test_backup_and_restore_bring_everything_back_and_an_older_state_is_noticed(
    base, make, shell, tmp_path, client, app
):
    project, ada = make.project(), make.person("ada")
    make.decide(ada, make.item(project))
    client(make.person("dora"))
    before, entries = counts(), size()
    code, manifest = shell("backup", tmp_path / "kept")
    assert code == 0, manifest
    assert (manifest["ledger"]["size"], manifest["keys"]) == (entries, False)
    assert not list((tmp_path / "kept").rglob("*.key"))
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "kept").glob("database*"))

    make.decide(ada, make.item(project))
    known.note()
    assert verify().ok
    code, refusal = shell("restore", tmp_path / "kept")
    assert (code, "--force" in refusal) == (1, True)
    assert counts() == [before[0] + 1, before[1] + 1]

    code, answer = shell("restore", tmp_path / "kept", "--force")
    assert (code, answer["rolled_back"]) == (0, True), answer
    assert counts() == before
    assert db.session.scalars(select(WebSession)).all() == []
    seen = known.known()
    assert seen is not None
    assert seen.size > entries

    # Whatever is appended since, the older state stays noticed until somebody says that they know.
    make.decide(ada, make.item(project))
    make.decide(ada, make.item(project))
    known.note()
    assert known.rolled_back() == seen == known.known()
    report = verify()
    assert (report.ok, report.kind) == (False, "rollback")
    code, answer = shell("ledger", "verify")
    assert (code, answer["kind"]) == (1, "rollback")
    assert client().get("/readyz").json["checks"]["ledger"] == "rolled back"
    code, answer = shell("doctor")
    assert "ledger-rolled-back" in [finding["id"] for finding in answer["findings"]]

    code, answer = shell("ledger", "acknowledge-rollback")
    assert (code, answer["entry"]) == (0, size() - 1)
    assert verify().ok
    assert known.rolled_back() is None
    assert client().get("/readyz").json["checks"]["ledger"] == "ok"
    assert shell("ledger", "acknowledge-rollback")[0] == 1


def test_restore_refuses_what_is_not_whole(base, make, shell, tmp_path):
    make.item(make.project())
    folder = tmp_path / "kept"
    assert shell("backup", folder)[0] == 0
    assert "not empty" in shell("backup", folder)[1]
    copy = next(folder.glob("database*"))
    whole, before = copy.read_bytes(), counts()
    copy.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    code, refusal = shell("restore", folder, "--force")
    assert (code, copy.name in refusal, "checksum" in refusal) == (1, True, True)
    copy.write_bytes(whole)
    (folder / "manifest.json").unlink()  # what a backup that was broken off looks like
    assert "no whole backup" in shell("restore", folder, "--force")[1]
    assert shell("restore", tmp_path / "nowhere")[0] == 2
    assert counts() == before


def test_restore_refuses_other_keys_and_brings_those_of_the_backup(base, make, shell, tmp_path, keys_dir):
    make.item(make.project())
    assert shell("backup", tmp_path / "kept")[0] == 0
    assert shell("backup", tmp_path / "with-keys", "--with-keys")[0] == 0
    for name, refusal in (("missing", "keys are kept apart"), ("other", "not the one")):
        folder = tmp_path / name
        if name == "other":
            shutil.copytree(keys_dir, folder)
            shutil.copy(keys_dir / "control.key", folder / "ledger.key")
        code, said = shell("restore", tmp_path / "kept", "--force", REVIEWQUEUE_KEYS_DIR=str(folder))
        assert (code, refusal in said) == (1, True), said
    new = {"REVIEWQUEUE_KEYS_DIR": str(tmp_path / "new")}
    code, answer = shell("restore", tmp_path / "with-keys", "--force", **new)
    assert code == 0, answer
    assert (tmp_path / "new" / "ledger.key").read_bytes() == (keys_dir / "ledger.key").read_bytes()
    assert (tmp_path / "new" / "ledger.key").stat().st_mode & 0o077 == 0


def test_backup_of_one_moment_while_others_write(base, make, shell, tmp_path):
    """The copy's ledger is whole, however much is appended while it is made."""
    make.item(make.project())
    stop, wrote = threading.Event(), []

    def write():
        with base.app_context():
            while not stop.is_set():
                with transaction():
                    wrote.append(record("config", {"change": "meanwhile"}).seq)
            db.session.remove()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        code, manifest = shell("backup", tmp_path / "kept")
    finally:
        stop.set()
        writer.join()
    assert code == 0, manifest
    assert wrote[0] <= manifest["ledger"]["size"] <= wrote[-1] + 1
    code, answer = shell("restore", tmp_path / "kept", "--force")
    assert code == 0, answer
    assert answer["ledger"]["entries"] == manifest["ledger"]["size"] == size()


@pytest.mark.sqlite
def test_restore_into_an_empty_place_on_another_machine(base, make, shell, tmp_path):
    make.decide(make.person("ada"), make.item(make.project()))
    assert shell("backup", tmp_path / "kept")[0] == 0
    entries, there = (
        size(),
        {
            "DATABASE_URL": f"sqlite:///{tmp_path / 'there.sqlite3'}",
            "REVIEWQUEUE_DATA_DIR": str(tmp_path / "there"),
        },
    )
    code, answer = shell("restore", tmp_path / "kept", **there)
    assert (code, answer["rolled_back"], answer["ledger"]["entries"]) == (0, False, entries)
    assert shell("ledger", "verify", **there)[0] == 0
    assert shell("restore", tmp_path / "kept", **there)[0] == 1


@pytest.mark.sqlite
def test_restore_names_a_backup_that_was_tampered_with_before_it_was_sealed(base, make, shell, tmp_path):
    """Checksums tell of accidents; the ledger tells of the rest."""
    make.decide(make.person("ada"), make.item(make.project()))
    folder = tmp_path / "kept"
    assert shell("backup", folder)[0] == 0
    with sqlite3.connect(folder / "database.sqlite3") as copy:
        copy.execute("UPDATE decision SET note = 'x'")
    copy.close()
    path = folder / "manifest.json"
    from reviewqueue.running.backup import _checksum

    sums = {"database.sqlite3": _checksum(folder / "database.sqlite3")}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": sums}))
    code, answer = shell("restore", folder, "--force")
    assert (code, answer["ledger"]["kind"]) == (1, "decision")


@pytest.mark.postgresql
def test_backup_says_which_program_is_missing(base, make, shell, tmp_path, monkeypatch):
    make.item(make.project())
    monkeypatch.setenv("PATH", str(tmp_path))
    code, refusal = shell("backup", tmp_path / "kept")
    assert (code, "pg_dump is not on PATH" in refusal) == (1, True), refusal


def test_note_keeps_what_does_not_follow(base, settings):
    with transaction():
        record("config", {"change": "a"})
    known.note()
    assert known.known() == known.Known(2, db.session.get_one(LedgerHead, 1).last_leaf)
    path: Path = settings.data_dir / "ledger-known.json"
    path.write_text(json.dumps({"size": 2, "leaf": "f" * 64}))
    with transaction():
        record("config", {"change": "b"})
    known.note()
    assert json.loads(path.read_text())["leaf"] == "f" * 64
    assert verify().kind == "rollback"
    path.write_text("nonsense")
    assert known.rolled_back() is None
    known.note()
    assert json.loads(path.read_text())["size"] == 3
