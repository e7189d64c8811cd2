"""Every address of the application, for tests that ask for all of them."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Flask
from werkzeug.routing import Rule

FILLING = {"number": 1, "version": 1, "seq": 1, "item_id": "itm_" + "0" * 26}


def path_of(rule: Rule) -> str:
    """An address of this route, its parts filled with things that are not there."""
    values = {name: FILLING.get(name, f"{name}-x") for name in rule.arguments}
    _, address = rule.build(values, append_unknown=False) or ("", "")
    assert address, rule.rule
    return address


def changes(app: Flask) -> Iterator[tuple[str, str]]:
    """(method, address) of every state change a browser can ask for."""
    for rule in app.url_map.iter_rules():
        blueprint = rule.endpoint.partition(".")[0]
        for method in sorted((rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}):
            if not blueprint.endswith("_api"):
                yield method, path_of(rule)
