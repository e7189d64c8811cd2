"""The full-text index, in each database's own words.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TERMS = (
    "CREATE TABLE search_term (scope TEXT NOT NULL, term TEXT NOT NULL, documents INTEGER NOT NULL,"
    " PRIMARY KEY (scope, term))"
)
DDL = {
    "sqlite": (
        "CREATE VIRTUAL TABLE search_document USING fts5(owner UNINDEXED, body, tokenize='unicode61')",
        _TERMS,
        # By the item's number. The words come folded; `_` marks what is no word of a text.
        "CREATE VIRTUAL TABLE search_item USING"
        " fts5(words, detail=none, tokenize=\"unicode61 remove_diacritics 0 tokenchars '_'\")",
    ),
    # The words are taken as they are: PostgreSQL's own parser would split some of them differently.
    "postgresql": (
        "CREATE TABLE search_document (owner TEXT PRIMARY KEY, body TEXT NOT NULL,"
        " words TSVECTOR GENERATED ALWAYS AS (array_to_tsvector(string_to_array(body, ' '))) STORED)",
        "CREATE INDEX search_document_words ON search_document USING gin (words)",
        _TERMS,
        "CREATE TABLE search_item (number BIGINT PRIMARY KEY, words TSVECTOR NOT NULL)",
        "CREATE INDEX search_item_words ON search_item USING gin (words)",
        # What many cards share that stand close together. SQLite reads all cards faster than it would these.
        "CREATE INDEX search_card_due ON card (due) WHERE due IS NOT NULL",
        "CREATE INDEX search_card_person ON card (person, number)",
        "CREATE INDEX search_card_model ON card (model, number)",
        "CREATE INDEX search_card_prompt ON card (prompt, number)",
    ),
}


def upgrade() -> None:
    for statement in DDL[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    for name in ("due", "person", "model", "prompt"):
        op.execute(f"DROP INDEX IF EXISTS search_card_{name}")
    op.execute("DROP TABLE search_item")
    op.execute("DROP TABLE search_term")
    op.execute("DROP TABLE search_document")
