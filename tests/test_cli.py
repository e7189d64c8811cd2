"""The commands of the contract: what they print, what they do, and how they refuse."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from sqlalchemy import func, select

from reviewqueue.cli import main
from reviewqueue.config import KEY_NAMES
from reviewqueue.db import db
from reviewqueue.models import Backend, Endpoint, Item, Person, Policy, Review
from reviewqueue.people import sign_in
from reviewqueue.people.access import authenticate_key
from tests.stacks import ROOT, environ

PROJECT = 'name = "replies"\ntitle = "Replies"\nkind = "text"\n[policy]\nconfidence_below = 0.8\n'


@pytest.fixture
def shell(database, keys_dir, tmp_path):
    """Run a command as the operator of a deployment on a fresh database; its answer and exit status."""
    runner = CliRunner()
    (tmp_path / "var").mkdir()

    def run(*words, ok=True, stdin="", **settings):
        env = {
            "REVIEWQUEUE_ENV": "test",
            "REVIEWQUEUE_DATA_DIR": str(tmp_path / "var"),
            "REVIEWQUEUE_KEYS_DIR": str(keys_dir),
            "DATABASE_URL": database,
            "REDIS_URL": f"unix://{tmp_path}/none.sock",
        }
        result = runner.invoke(main, words, input=stdin, env=env | settings)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert (result.exit_code == 0) == ok, result.output
        return result

    return run


@pytest.fixture
def project(shell, tmp_path):
    file = tmp_path / "project.toml"
    file.write_text(PROJECT)
    shell("projects", "apply", str(file))
    return file


def _lines(tmp_path, *lines):
    file = tmp_path / "items.jsonl"
    file.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return str(file)


def test_people_add_prints_a_link_that_signs_in_once(shell, base):
    answer = json.loads(shell("people", "add", "Ada@Example.org", "--role", "reviewer", "--json").stdout)
    assert (answer["email"], answer["role"]) == ("ada@example.org", "reviewer")
    assert answer["link"].startswith("http://127.0.0.1:8000/login/link/")
    token = answer["link"].rpartition("/")[2]
    assert sign_in.person_of(sign_in.sign_in_by_link(token, "127.0.0.1")).id == answer["id"]


def test_people_add_takes_a_password_from_standard_input(shell, base):
    words = ("people", "add", "a@example.org", "--role", "lead", "--password-stdin", "--json")
    answer = json.loads(shell(*words, stdin="nine tall green trees\n").stdout)
    assert answer["link"] is None
    assert sign_in.sign_in("a@example.org", "nine tall green trees", "127.0.0.1")


def test_people_add_refuses_in_one_line_and_adds_nobody(shell, base):
    shell("people", "add", "a@example.org", "--role", "lead")
    result = shell("people", "add", "a@example.org", "--role", "admin", ok=False)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "Error: a@example.org has an account already\n"
    assert db.session.scalars(select(Person.role)).all() == ["lead"]


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "words",
    [
        ("people", "add", "a@example.org"),
        ("people", "add", "a@example.org", "--role", "king"),
        ("people", "remove", "x"),
        ("backends", "add", "b", "--project", "replies", "--trusted"),
        ("projects", "apply", "/nowhere/project.toml"),
        ("examples", "export", "--project", "replies", "--format", "xml"),
        ("nothing",),
    ],
    ids=" ".join,
)
def test_bad_usage_exits_with_2(shell, words):
    assert shell(*words, ok=False).exit_code == 2


def test_projects_apply_prints_what_changed_and_makes_versions(shell, project, base):
    assert "nothing changed" in shell("projects", "apply", str(project)).stdout
    project.write_text(PROJECT.replace("0.8", "0.7"))
    answer = json.loads(shell("projects", "apply", str(project), "--json").stdout)
    assert answer["policy_version"] == 2
    assert any("confidence_below" in change for change in answer["changes"])
    assert db.session.scalars(select(Policy.version).order_by(Policy.version)).all() == [1, 2]


def test_projects_apply_refuses_a_broken_file_and_changes_nothing(shell, project, base):
    project.write_text(PROJECT + "confidence_above = 3\n")
    result = shell("projects", "apply", str(project), ok=False)
    assert result.exit_code == 1
    assert "confidence_above" in result.stderr
    assert "Traceback" not in result.output
    assert db.session.scalar(select(func.count()).select_from(Policy)) == 1


def test_backends_add_prints_its_secrets_as_json(shell, project, base):
    answer = json.loads(shell("backends", "add", "shop", "--project", "replies").stdout)
    assert set(answer) == {"backend", "api_key", "inbound_secret", "callback_secret"}
    assert answer["backend"] == "shop"
    assert authenticate_key(answer["api_key"]).backend_id == db.session.scalars(select(Backend.id)).one()
    for secret in ("inbound_secret", "callback_secret"):
        assert answer[secret].startswith("whsec_")


def test_backends_add_trusts_an_address_of_the_allow_list_only(shell, project, base):
    words = ("--project", "replies", "--callback", "http://127.0.0.1:9/hook", "--trusted")
    allowed = {"REVIEWQUEUE_CALLBACK_ALLOW": "127.0.0.0/8"}
    shell("backends", "add", "shop", *words, **allowed)
    assert db.session.scalars(select(Endpoint.state)).all() == ["active"]
    db.session.rollback()
    refused = shell("backends", "add", "other", *words, ok=False)
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert db.session.scalars(select(Backend.name)).all() == ["shop"]


def test_backends_add_says_when_the_callback_has_not_answered(shell, project, base):
    words = ("--project", "replies", "--callback", "http://127.0.0.1:1/hook")
    result = shell("backends", "add", "shop", *words, REVIEWQUEUE_CALLBACK_ALLOW="127.0.0.0/8")
    assert json.loads(result.stdout)["backend"] == "shop"
    assert "not active yet" in result.stderr
    assert db.session.scalars(select(Endpoint.state)).all() == ["unverified"]


def test_items_import_is_idempotent_and_goes_on_where_it_stopped(shell, project, base, tmp_path):
    first = {"output": "one", "confidence": 0.1, "external_id": "a"}
    second = {"output": "two", "confidence": 0.9}
    file = _lines(tmp_path, first, second)
    words = ("items", "import", file, "--project", "replies", "--json")
    assert json.loads(shell(*words).stdout) == {"submitted": 2, "known": 0, "refused": 0}
    assert json.loads(shell(*words).stdout) == {"submitted": 0, "known": 2, "refused": 0}
    _lines(tmp_path, first, second, "\n", {"output": "three"})
    assert json.loads(shell(*words).stdout) == {"submitted": 1, "known": 2, "refused": 0}
    assert db.session.scalar(select(func.count()).select_from(Item)) == 3
    assert db.session.scalar(select(func.count()).select_from(Review)) >= 2


def test_items_import_keeps_the_good_lines_and_names_the_bad_ones(shell, project, base, tmp_path):
    file = _lines(
        tmp_path,
        {"output": "good"},
        "{not json}\n",
        {"output": 7},
        "[]\n",
        {"output": "x", "risk": 7},
    )
    result = shell("items", "import", file, "--project", "replies", "--json", ok=False)
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"submitted": 1, "known": 0, "refused": 4}
    for number in (2, 3, 4, 5):
        assert f"items.jsonl:{number}: " in result.stderr
    assert "Traceback" not in result.stderr


def test_items_export_prints_each_item_as_the_api_does(shell, project, base, tmp_path):
    file = _lines(tmp_path, *({"output": f"text {n}", "external_id": f"e{n}"} for n in range(3)))
    shell("items", "import", file, "--project", "replies")
    lines = [
        json.loads(line) for line in shell("items", "export", "--project", "replies").stdout.splitlines()
    ]
    assert [line["external_id"] for line in lines] == ["e0", "e1", "e2"]
    assert {"id", "status", "project", "route", "output", "decision", "sequence", "page"} <= set(lines[0])


def test_items_of_a_project_that_is_not_there_are_refused(shell, base, tmp_path):
    for words in (("import", _lines(tmp_path, {"output": "x"})), ("export",)):
        result = shell("items", *words, "--project", "nowhere", ok=False)
        assert result.exit_code == 1
        assert "nowhere" in result.stderr


def test_examples_export_prints_every_format(shell, base, make):
    project = make.project()
    item = make.item(project, input="Where is it?", output="No idea.")
    make.decide(make.person("ada"), item, "edit", "It left on Monday.", "tone")
    lines = shell("examples", "export", "--project", project.name, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["output"] for line in lines] == ["It left on Monday."]
    for form in ("openai-chat", "dpo", "csv"):
        shell("examples", "export", "--project", project.name, "--format", form)


@pytest.mark.sqlite
def test_keys_create_makes_what_is_missing_and_overwrites_nothing(shell, tmp_path):
    folder = tmp_path / "keys"
    where = {"REVIEWQUEUE_KEYS_DIR": str(folder)}
    made = json.loads(shell("keys", "create", "--json", **where).stdout)
    assert made["made"] == list(KEY_NAMES)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "control.key").unlink()
    again = json.loads(shell("keys", "create", "--json", **where).stdout)
    assert again["made"] == ["control"]
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"control.key"}


@pytest.mark.sqlite
def test_keys_rotate_keeps_the_old_key(shell, tmp_path):
    folder = tmp_path / "keys"
    where = {"REVIEWQUEUE_KEYS_DIR": str(folder)}
    shell("keys", "create", **where)
    before = (folder / "session.key").read_bytes()
    shell("keys", "rotate", "session", **where)
    assert (folder / "session.key").read_bytes() != before
    assert [path.read_bytes() for path in folder.glob("session-until-*.key")] == [before]
    assert shell("keys", "rotate", "ledger", ok=False, **where).exit_code == 1


def test_ledger_verify_exits_1_and_names_the_first_bad_entry(shell, project, base, tmp_path):
    shell("items", "import", _lines(tmp_path, {"output": "x"}), "--project", "replies")
    report = json.loads(shell("ledger", "verify", "--json").stdout)
    assert report["ok"]
    with db.engine.begin() as connection:
        for name in _triggers(connection):
            connection.exec_driver_sql(name)
        connection.exec_driver_sql("UPDATE ledger_entry SET mac = 'x' WHERE seq = 1")
    result = shell("ledger", "verify", "--json", ok=False)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["first_bad"] == 1


def _triggers(connection):
    """What takes away the guards of the ledger, as somebody with all rights on the database could."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name LIKE 'ledger%'"
        return [f"DROP TRIGGER {name}" for (name,) in connection.exec_driver_sql(query).all()]
    return ["ALTER TABLE ledger_entry DISABLE TRIGGER USER"]


@pytest.mark.sqlite
def test_settings_lists_and_then_names_one_it_does_not_know(shell):
    result = shell("settings", ok=False, REVIEWQUEUE_DATADIR="x")
    assert result.exit_code == 1
    assert "REVIEWQUEUE_DATA_DIR" in result.stdout
    assert "REVIEWQUEUE_DATADIR is not a setting" in result.stderr


def test_backends_add_refuses_to_trust_an_outside_address_and_adds_nobody(shell, project, base):
    address = ("--callback", "https://203.0.113.9/", "--trusted")
    words = ("backends", "add", "b", "--project", "replies", *address)
    assert shell(*words, ok=False, REVIEWQUEUE_CALLBACK_ALLOW="10.0.0.0/8").stdout == ""
    assert db.session.scalar(select(func.count()).select_from(Backend)) == 0
    assert "api_key" in shell(*words, REVIEWQUEUE_CALLBACK_ALLOW="203.0.113.0/28").stdout
    db.session.rollback()
    assert db.session.scalars(select(Backend.name)).all() == ["b"]


def test_settings_lists_every_setting(shell):
    listed = json.loads(shell("settings", "--json").stdout)["settings"]
    assert {"REVIEWQUEUE_ENV", "DATABASE_URL", "REVIEWQUEUE_INTAKE_RATE"} <= {each["name"] for each in listed}
    assert all(each["meaning"] for each in listed)


@pytest.mark.sqlite
def test_an_unknown_setting_is_refused_by_name(shell):
    result = shell("ledger", "verify", ok=False, REVIEWQUEUE_CALLBACK_ALOW="x")
    assert result.exit_code == 1
    assert "REVIEWQUEUE_CALLBACK_ALOW is not a setting" in result.stderr


def test_migrate_says_where_the_schema_stands(shell):
    answer = json.loads(shell("migrate", "--json").stdout)
    assert answer["changed"] is False
    assert answer["schema"]


@pytest.mark.sqlite
def test_any_command_fills_an_empty_database_first(shell, tmp_path):
    new = {"DATABASE_URL": f"sqlite:///{tmp_path}/new.sqlite3"}
    assert json.loads(shell("ledger", "verify", "--json", **new).stdout)["ok"]


@pytest.mark.sqlite
def test_an_older_schema_is_not_migrated_by_itself_in_production(shell, base):
    with db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    live = {"REVIEWQUEUE_ENV": "production", "REVIEWQUEUE_PUBLIC_URL": "https://review.example"}
    result = shell("ledger", "verify", ok=False, **live)
    assert "python -m reviewqueue migrate" in result.stderr


def test_relay_once_does_what_is_due(shell, base, make):
    make.item(make.project())
    assert db.session.scalars(select(Review.prepared_at)).all() == [None]
    db.session.rollback()
    done = json.loads(shell("relay", "--once", "--json").stdout)["done"]
    assert done["prepare"] == 1
    assert None not in db.session.scalars(select(Review.prepared_at)).all()


def test_worker_burst_says_in_one_line_that_redis_is_away(shell):
    result = shell("worker", "--burst", ok=False)
    assert result.exit_code == 1
    assert "Redis does not answer" in result.stderr


def test_worker_burst_does_what_was_rung(shell, base, make, redis_url, quiet_signals):
    make.item(make.project())
    db.session.rollback()  # what was read so far is not what will be read
    shell("worker", "--burst", REDIS_URL=redis_url)
    assert None not in db.session.scalars(select(Review.prepared_at)).all()


def test_doctor_names_what_it_finds(shell, base):
    result = shell(
        "doctor", "--json", REVIEWQUEUE_CALLBACK_ALLOW="10.0.0.0/8", REVIEWQUEUE_BIND="0.0.0.0:8000"
    )
    found = {finding["id"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert {"redis", "callback-allow", "development-open"} <= set(found)
    assert {name for name in found if found[name]["level"] == "error"} == set()
    assert "10.0.0.0/8" in found["callback-allow"]["problem"]
    assert all(finding["remedy"] for finding in found.values())


@pytest.mark.sqlite
def test_doctor_exits_1_when_something_must_be_mended(shell, base, tmp_path, keys_dir):
    folder = tmp_path / "keys"
    folder.mkdir()
    for path in keys_dir.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
        (folder / path.name).chmod(0o600)
    (folder / "ledger.key").chmod(0o644)
    result = shell("doctor", "--json", ok=False, REVIEWQUEUE_KEYS_DIR=str(folder))
    assert result.exit_code == 1
    findings = json.loads(result.stdout)["findings"]
    (finding,) = (finding for finding in findings if finding["id"] == "key-ledger")
    assert "chmod 600" in finding["remedy"]


@pytest.mark.sqlite
def test_doctor_says_that_the_schema_is_old(shell, base):
    with db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    findings = json.loads(shell("doctor", "--json", ok=False).stdout)["findings"]
    assert "schema" in {finding["id"] for finding in findings}


@pytest.mark.sqlite
def test_doctor_says_that_postgresql_cannot_be_reached(shell):
    away = {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}
    findings = json.loads(shell("doctor", "--json", ok=False, **away).stdout)["findings"]
    assert "database" in {finding["id"] for finding in findings}


def test_the_module_is_a_program_that_asks_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "reviewqueue", "people", "add", "a@example.org", "--role", "admin", "--json"],
        env=environ(tmp_path / "var"),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["role"] == "admin"
    assert done.stderr == ""


def test_every_group_and_command_has_json_and_a_help_text():
    def walk(command, path):
        assert command.help, path
        if hasattr(command, "commands"):
            for name, inner in command.commands.items():
                walk(inner, f"{path} {name}")
        else:
            assert "--json" in {option for parameter in command.params for option in parameter.opts}, path

    walk(main, "reviewqueue")
