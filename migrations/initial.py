"""Writes versions/0001_initial.py anew from the models: `make migration`, until the first release.

Afterwards a released migration never changes; a new one is begun by
`.venv/bin/flask --app app db revision --autogenerate -m "what changes"`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# After the path: this file is run as a program.
from alembic.autogenerate import produce_migrations, render_python_code  # noqa: E402
from alembic.migration import MigrationContext  # noqa: E402
from sqlalchemy import create_engine  # noqa: E402

from reviewqueue import schema  # noqa: E402

HEADER = '''"""Every table as of the first release; written from the models by `make migration`.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    {upgrade}


def downgrade() -> None:
    {downgrade}
'''


def main() -> None:
    options = schema.options()
    with create_engine("sqlite://").connect() as empty:
        context = MigrationContext.configure(
            empty,
            opts={
                **options,
                "sqlalchemy_module_prefix": "sa.",
                "alembic_module_prefix": "op.",
                "user_module_prefix": None,
            },
        )
        script = produce_migrations(context, options["target_metadata"])
    upgrade, downgrade = (
        render_python_code(
            part, render_as_batch=True, render_item=options["render_item"], migration_context=context
        )
        for part in (script.upgrade_ops, script.downgrade_ops)
    )
    target = ROOT / "migrations" / "versions" / "0001_initial.py"
    target.write_text(HEADER.format(upgrade=upgrade, downgrade=downgrade))
    print(f"wrote {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
