"""What all commands share: one line for every refusal, --json, an application to run in."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import click
from sqlalchemy.exc import SQLAlchemyError

from reviewqueue.config import ConfigError
from reviewqueue.errors import Invalid, Refusal
from reviewqueue.running import startup

P = ParamSpec("P")
R = TypeVar("R")


class Commands(click.Group):
    """Turns every refusal into one line on standard error and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a refusal is no traceback."""
        try:
            return super().invoke(ctx)
        except Invalid as error:
            first = next(iter(error.errors), None)
            said = [error.message]
            if first is not None and first["message"] not in error.message:
                said.append(f"{first['pointer']}: {first['message']}")
            raise Refused("; ".join(said)) from None
        except (Refusal, ConfigError) as error:
            raise Refused(str(error)) from None
        except SQLAlchemyError as error:
            raise Refused(f"the database refused: {str(error).splitlines()[0]}") from None


class Refused(click.ClickException):
    """One line and exit status 1."""

    def format_message(self) -> str:
        return self.message


as_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


def in_app(command: Callable[P, R]) -> Callable[P, R]:
    """Run the command inside the application, its database open and at the newest schema."""

    @wraps(command)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with startup.open_base(startup.load()).app_context():
            return command(*args, **kwargs)

    return inside


def put(as_json: bool, answer: Any, *lines: str) -> None:
    """The answer: as JSON when asked for, else as lines for people."""
    click.echo(json.dumps(answer, ensure_ascii=False) if as_json else "\n".join(lines))
