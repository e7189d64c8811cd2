"""What must be true together: the queries that find a state change of which only a part is there."""

from __future__ import annotations

from sqlalchemy import text

from reviewqueue.db import db

# Each finds rows of a state change that was only half done.
HALVES = {
    "an item for review without its review": """
        SELECT item.id FROM item WHERE route = 'review'
        AND NOT EXISTS (SELECT 1 FROM review WHERE review.item_id = item.id)""",
    "a sampled item without its control review": """
        SELECT item.id FROM item WHERE route = 'release' AND sampled
        AND NOT EXISTS (SELECT 1 FROM review WHERE review.item_id = item.id)""",
    "a key without its item": "SELECT key FROM submission WHERE item_id IS NULL AND answer IS NULL",
    "a verdict without its decision": """
        SELECT review.id FROM review WHERE state = 'given' AND NOT EXISTS
        (SELECT 1 FROM decision WHERE decision.item_id = review.item_id AND decision.round = review.round)
        AND NOT EXISTS
        (SELECT 1 FROM review other WHERE other.item_id = review.item_id AND other.state = 'wanted')""",
    "a decision without its ledger entry": """
        SELECT decision.id FROM decision WHERE NOT EXISTS
        (SELECT 1 FROM ledger_entry WHERE type = 'decision' AND ledger_entry.decision_id = decision.id)""",
    "a decision to tell without its delivery": """
        SELECT decision.id FROM decision WHERE sequence IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.decision_id = decision.id)""",
    "a correction without its example": """
        SELECT decision.id FROM decision JOIN item ON item.id = decision.item_id
        WHERE verdict = 'edit' AND input IS NOT NULL AND NOT EXISTS
        (SELECT 1 FROM example WHERE example.decision_id = decision.id)""",
    "a decided item still pending": """
        SELECT item.id FROM item JOIN decision ON decision.item_id = item.id
        WHERE item.status = 'pending' AND decision.undone_at IS NULL""",
    "a delivery that ended without its ledger entry": """
        SELECT delivery.id FROM delivery WHERE state IN ('delivered', 'dead') AND NOT EXISTS
        (SELECT 1 FROM ledger_entry entry
         WHERE entry.type = 'delivery' AND entry.decision_id = delivery.decision_id)""",
}


def half_done() -> list[str]:
    """Every state change of the current app's database that is only half there, in words."""
    found = {what: db.session.execute(text(query)).scalars().all() for what, query in HALVES.items()}
    db.session.rollback()
    return [f"{what}: {rows[:3]}" for what, rows in found.items() if rows]
