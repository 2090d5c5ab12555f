"""Commands for the clients of a portfolio and their API keys: clients add, list, rotate, revoke."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue.cli.frame import DONE, Frame, emit, emit_json, say
from retinue.cli.options import Format, Output, Reason

if TYPE_CHECKING:
    from retinue.control.clients import Issued
    from retinue.core.access import ClientRecord

Json = Any


class Priority(StrEnum):
    """Who waits for whom when a queue is full of work."""

    urgent = "urgent"
    normal = "normal"
    patient = "patient"


Name = Annotated[str, typer.Argument(metavar="NAME", help="The client's name.")]
Tenant = Annotated[str | None, typer.Option("--tenant", metavar="TENANT", help="Whom it belongs to; for accounts.")]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="GLOB", help="Endpoints and models it may call: a name, or 'late-*'; default all."),
]
Class = Annotated[Priority, typer.Option("--priority", help="Where its requests wait in a queue.")]
Overlap = Annotated[
    str, typer.Option("--overlap", metavar="SPAN", help="How long the present keys still open the door: 12h, 7d, 0s.")
]
Key = Annotated[str | None, typer.Option("--key", metavar="PREFIX", help="Only this key; without, the client.")]

clients = typer.Typer(
    name="clients", help="Clients of the served endpoints, their rights and API keys.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (add, list_, rotate, revoke):
        clients.command(command.__name__.rstrip("_"))(command)
    app.add_typer(clients)


def add(
    context: typer.Context,
    name: Name,
    *,
    tenant: Tenant = None,
    allow: Allow = None,
    priority: Class = Priority.normal,
    why: Reason = "",
    output: Output = Format.text,
) -> int:
    """Register a client; prints its first key, once.

    From the first client on, requests need a key.
    """
    with _frame(context).project() as project:
        first = not project.registry.clients(project.name)
        issued = project.clients.add(name, tenant=tenant, allow=allow or (), priority=priority.value, why=why)
        _show(issued, output)
        for pattern in project.clients.idle(issued.client.allow):
            say(f"Note: --allow {pattern} fits no endpoint and no model of a current release; see `retinue status`.")
        if first:
            say("From now on requests need a key: this was the first client.")
    return DONE


def list_(context: typer.Context, output: Output = Format.text) -> int:
    """List clients, what they may, and the prefixes of their keys."""
    from retinue.cli.words import table
    from retinue.control.events import utc_now

    with _frame(context).project() as project:
        found = project.clients.recorded()
    now = utc_now()
    if output is Format.json:
        emit_json({"clients": [_told(client, now) for client in found]})
    elif not found:
        emit("No client is registered: whoever reaches the server may call every endpoint.")
    else:
        emit("\n".join(table([_line(client, now) for client in found], indent="")))
    return DONE


def rotate(
    context: typer.Context, name: Name, overlap: Overlap = "7d", why: Reason = "", output: Output = Format.text
) -> int:
    """Give a client another key; prints it, once. The present ones end after the overlap."""
    from retinue.control.clients import duration

    span = duration(overlap)
    with _frame(context).project() as project:
        issued = project.clients.rotate(name, span, why=why)
    _show(issued, output)
    if span:
        say(f"The keys it had still open the door for {overlap}.")
    return DONE


def revoke(context: typer.Context, name: Name, key: Key = None, why: Reason = "", output: Output = Format.text) -> int:
    """End one key of a client, or all of them and the client."""
    from retinue.control.events import utc_now

    with _frame(context).project() as project:
        client = project.clients.revoke(name, key, why=why)
    if output is Format.json:
        emit_json({"client": _told(client, utc_now())})
    elif key is not None:
        left = len(client.live_keys(utc_now()))
        emit(f"Key {key} of {name} is revoked; {left} {'key' if left == 1 else 'keys'} of it left.")
    else:
        emit(f"Client {name} is revoked with all its keys.")
    return DONE


def _show(issued: Issued, output: Format) -> None:
    from retinue.control.events import utc_now

    if output is Format.json:
        emit_json({"client": _told(issued.client, utc_now()), "key": issued.key})
        return
    emit(issued.key)
    say(f"This is the key of {issued.client.name}. It is shown only now: only a digest of it is kept.")
    say("Send it as `Authorization: Bearer KEY`.")


def _told(client: ClientRecord, now: str) -> dict[str, Json]:
    """A client as programs read it: never a key, nor its digest."""
    return {
        "name": client.name,
        "tenant": client.tenant,
        "allow": list(client.allow),
        "priority": client.priority,
        "created": client.created,
        "revoked": client.revoked,
        "keys": [
            {"prefix": k.prefix, "created": k.created, "ends": k.ends, "live": k in client.live_keys(now)}
            for k in client.keys
        ],
    }


def _line(client: ClientRecord, now: str) -> tuple[str, ...]:
    from retinue.cli.words import moment

    def told(prefix: str, ends: str | None) -> str:
        return f"rtn_{prefix}_… until {moment(ends)}" if ends else f"rtn_{prefix}_…"

    keys = ", ".join(told(key.prefix, key.ends) for key in client.live_keys(now)) or "no live key"
    state = f"revoked {moment(client.revoked)}" if client.revoked is not None else keys
    return client.name, client.tenant or "–", client.priority, " ".join(client.allow), state


def _frame(context: typer.Context) -> Frame:
    frame = context.obj
    assert isinstance(frame, Frame)
    return frame
