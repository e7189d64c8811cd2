"""The command that sends ended deliveries again; what is sent and how is decided in delivery/replay.py."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from reviewqueue.delivery.replay import ENDED, Which, count, replay, replay_all
from reviewqueue.errors import Invalid
from reviewqueue.people.access import SYSTEM
from reviewqueue.people.backends import backend_named
from reviewqueue.shell import as_json, in_app, put


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click alone
    """A day or an instant of RFC 3339; without a zone it is UTC."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The instant, aware; a day is where it begins."""
        try:
            moment = datetime.fromisoformat(str(value))
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        except ValueError:
            self.fail(f"{value} is no time such as 2026-11-20 or 2026-11-20T10:00:00Z", param, ctx)


@click.group("deliveries")
def deliveries_commands() -> None:
    """What backends are told."""


@deliveries_commands.command("replay")
@click.argument("events", nargs=-1, metavar="[EVENT]...")
@click.option("--from", "since", type=Moment(), help="Decided at this time or later.")
@click.option("--to", "until", type=Moment(), help="Decided before this time.")
@click.option("--backend", help="Of this backend alone.")
@click.option("--state", type=click.Choice(ENDED), help="Only those that ended so; default: all that ended.")
@click.option("--dry-run", is_flag=True, help="Say how many it would be, and send none.")
@as_json
@in_app
def replay_command(
    events: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    backend: str | None,
    state: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send deliveries again, by id (evt_…) or all in a range: the same id and the same bytes.

    Only what was delivered or is dead is sent again; the rest is on its way.
    """
    ranged = any((since, until, backend, state))
    if bool(events) == ranged:
        raise click.UsageError("name either EVENTs or a range: --from, --to, --backend or --state")
    if events:
        found = len(events)
        done = 0 if dry_run else len([replay(SYSTEM, event) for event in events])
    else:
        which = Which(since, until, _backend(backend), (state,) if state else ENDED)
        found, done = count(SYSTEM, which, limit=None), 0
        if not dry_run:
            with click.progressbar(length=found, label="replaying", file=sys.stderr) as bar:
                for some in replay_all(SYSTEM, which):
                    done += some
                    bar.update(some)
    said = f"{found} would be sent again" if dry_run else f"{done} will be sent again"
    put(as_json, {"found": found, "replayed": done, "dry_run": dry_run}, said)


def _backend(name: str | None) -> list[str] | None:
    if name is None:
        return None
    found = backend_named(name)
    if found is None:
        raise Invalid(f"there is no backend {name}", field="backend")
    return [found.id]
