"""The process of test_powercut.py: submits and decides, and acknowledges into a file what was answered.

How it is wrong on purpose stands on its command line: `normal` syncs as SQLite's NORMAL does, `early`
acknowledges before it commits.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from sqlalchemy import select

from reviewqueue import create_base
from reviewqueue.config import Settings
from reviewqueue.db import db
from reviewqueue.ids import new_id
from reviewqueue.intake.submit import submit
from reviewqueue.models import Backend, Person
from reviewqueue.people.access import actor_of, backend_actor
from reviewqueue.review.claim import claim_item
from reviewqueue.review.decide import decide

CHECKPOINT_PAGES = 200  # so that a short run has checkpoints, too


def main(settings: str, acknowledgements: str, count: int, how: str) -> None:
    database = importlib.import_module("reviewqueue.db")
    database.SQLITE_PRAGMAS += (f"wal_autocheckpoint={CHECKPOINT_PAGES}",)
    if how == "normal":
        database.SQLITE_PRAGMAS += ("synchronous=NORMAL",)
    told = os.open(acknowledgements, os.O_WRONLY | os.O_APPEND)

    def acknowledge(id: str, early: bool = False) -> None:
        if early == (how == "early"):
            os.write(told, f"{id}\n".encode())

    with create_base(Settings.load(json.loads(settings))).app_context():
        owner = db.session.execute(select(Backend.id, Backend.project_id)).one()
        bot = backend_actor(owner.id, owner.project_id, ["items:write"])
        ada = actor_of(db.session.scalars(select(Person)).one())
        db.session.remove()
        for number in range(count):
            key = f"key-{number}"
            acknowledge(key, early=True)
            body = {"project": "support-replies", "input": "Where?", "output": f"Parcel {number} left."}
            answer = submit(body, bot, key)
            acknowledge(key)
            if number % 3 == 0:
                token, id = claim_item(ada, answer.id).token, new_id("dec")
                acknowledge(id, early=True)
                decide(ada, token, id, "edit", f"Parcel {number} left on Monday.", "tone")
                acknowledge(id)
            db.session.remove()
        os._exit(0)  # as a process that is killed: nothing is tidied up


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
