"""What this machine can do at most: Flask answers 201 after one INSERT and its COMMIT, as durable as ours.

`gunicorn bench.limit:app`, with DATABASE_URL naming the database. Nothing is checked, nothing is routed.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from typing import Any

import psycopg
from flask import Flask, request

app = Flask(__name__)
URL = os.environ["DATABASE_URL"]
TABLE = "CREATE TABLE IF NOT EXISTS limit_item ({id} PRIMARY KEY, key TEXT UNIQUE, body TEXT)"
_own = threading.local()


def _sqlite() -> Any:
    connection = sqlite3.connect(URL.removeprefix("sqlite:///"), timeout=10, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(TABLE.format(id="id INTEGER"))
    return connection


def _postgresql() -> Any:
    connection = psycopg.connect(URL, options="-c synchronous_commit=on")
    try:
        connection.execute(TABLE.format(id="id BIGSERIAL"))
        connection.commit()
    except psycopg.Error:  # another thread makes it at the same moment
        connection.rollback()
    return connection


@app.post("/api/v1/items")
def submit() -> tuple[dict[str, str], int]:
    """Store the body under its key."""
    if not hasattr(_own, "connection"):
        _own.connection = _sqlite() if URL.startswith("sqlite") else _postgresql()
    values = request.headers["Idempotency-Key"], json.dumps(request.get_json())
    if URL.startswith("sqlite"):
        _own.connection.execute("BEGIN IMMEDIATE")
        _own.connection.execute("INSERT INTO limit_item (key, body) VALUES (?, ?)", values)
    else:
        _own.connection.execute("INSERT INTO limit_item (key, body) VALUES (%s, %s)", values)
    _own.connection.commit()
    return {"id": values[0]}, 201
