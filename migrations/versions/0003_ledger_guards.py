"""The database itself refuses to change or remove what the ledger holds.

Revision ID: 0003
Revises: 0002

A later migration that rebuilds one of these tables on SQLite (batch mode) loses its triggers and has to
make them again.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

REFUSED = "the ledger is append-only"

# The one change a part may see: salt and payload go together, and an entry says why.
ERASURE = """NEW.seq = OLD.seq AND NEW.part = OLD.part AND OLD.erased_by IS NULL
    AND NEW.erased_by IS NOT NULL AND NEW.salt IS NULL AND NEW.payload IS NULL"""

POSTGRESQL = (
    f"""CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION '{REFUSED}' USING ERRCODE = 'integrity_constraint_violation'; END $$""",
    """CREATE TRIGGER ledger_entry_kept BEFORE UPDATE OR DELETE ON ledger_entry
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse()""",
    """CREATE TRIGGER ledger_entry_whole BEFORE TRUNCATE ON ledger_entry
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()""",
    """CREATE TRIGGER ledger_part_kept BEFORE DELETE ON ledger_part
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse()""",
    f"""CREATE TRIGGER ledger_part_erased BEFORE UPDATE ON ledger_part
    FOR EACH ROW WHEN (NOT ({ERASURE})) EXECUTE FUNCTION ledger_refuse()""",
    """CREATE TRIGGER ledger_part_whole BEFORE TRUNCATE ON ledger_part
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()""",
)

# INSERT OR REPLACE deletes rows without firing delete triggers: hence the ones before INSERT.
SQLITE = (
    f"""CREATE TRIGGER ledger_entry_kept BEFORE UPDATE ON ledger_entry
    BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END""",
    f"""CREATE TRIGGER ledger_entry_whole BEFORE DELETE ON ledger_entry
    BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END""",
    f"""CREATE TRIGGER ledger_entry_once BEFORE INSERT ON ledger_entry
    WHEN EXISTS (SELECT 1 FROM ledger_entry WHERE seq = NEW.seq OR prev = NEW.prev OR leaf = NEW.leaf
        OR (type = 'decision' AND NEW.type = 'decision' AND decision_id = NEW.decision_id))
    BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END""",
    f"""CREATE TRIGGER ledger_part_kept BEFORE DELETE ON ledger_part
    BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END""",
    f"""CREATE TRIGGER ledger_part_erased BEFORE UPDATE ON ledger_part
    WHEN NOT ({ERASURE})
    BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END""",
    f"""CREATE TRIGGER ledger_part_once BEFORE INSERT ON ledger_part
    WHEN EXISTS (SELECT 1 FROM ledger_part WHERE seq = NEW.seq AND part = NEW.part)
    BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END""",
)

TRIGGERS = {
    "postgresql": {
        "ledger_entry": ("ledger_entry_kept", "ledger_entry_whole"),
        "ledger_part": ("ledger_part_kept", "ledger_part_erased", "ledger_part_whole"),
    },
    "sqlite": {
        "ledger_entry": ("ledger_entry_kept", "ledger_entry_whole", "ledger_entry_once"),
        "ledger_part": ("ledger_part_kept", "ledger_part_erased", "ledger_part_once"),
    },
}


def upgrade() -> None:
    for statement in POSTGRESQL if op.get_bind().dialect.name == "postgresql" else SQLITE:
        op.execute(statement)


def downgrade() -> None:
    dialect = op.get_bind().dialect.name
    for table, names in TRIGGERS[dialect].items():
        for name in names:
            op.execute(f"DROP TRIGGER {name}" + (f" ON {table}" if dialect == "postgresql" else ""))
    if dialect == "postgresql":
        op.execute("DROP FUNCTION ledger_refuse()")
