"""Runs the migrations on the connection that `reviewqueue.schema.migrate` opened, or on one of its own."""

from alembic import context

from reviewqueue import schema

connection = context.config.attributes.get("connection")

if context.is_offline_mode():
    raise SystemExit("migrations run on a live database only: `python -m reviewqueue migrate`")
if connection is not None:
    schema.run(context, connection)
else:
    with schema.connection() as own:
        schema.run(context, own)
