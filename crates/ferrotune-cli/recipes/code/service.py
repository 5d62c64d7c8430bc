"""What may be done with @many_words@. Every change is checked, stored, audited, in this order."""

from dataclasses import replace

from stock.@one@.record import @Type@Record, check_@one@
from stock.@one@.store import fetch_@one@, store_@one@
from stock.house import Outcome, accept, audit, refuse


def create_@one@(*, db, record: @Type@Record) -> Outcome[@Type@Record]:
    checked = check_@one@(record=record)
    if checked.refused:
        return checked
    stored = store_@one@(db=db, record=record)
    audit("@one@.created", @one@_id=record.@one@_id)
    return stored


def @verb@_@one@(*, db, @one@_id: int, @changed@: @changed_type@) -> Outcome[@Type@Record]:
    """@Purpose@."""
    found = fetch_@one@(db=db, @one@_id=@one@_id)
    if found.refused:
        return found
    if @refusal@:
        return refuse("@one@.@verb@.@reason@", found=@changed@)
    changed = replace(found.value, @changed@=@changed@)
    checked = check_@one@(record=changed)
    if checked.refused:
        return checked
    stored = store_@one@(db=db, record=changed)
    audit("@one@.@past@", @one@_id=@one@_id, @changed@=@changed@)
    return stored
