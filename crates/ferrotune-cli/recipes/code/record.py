"""@Title@: @about@."""

from dataclasses import dataclass

from stock.house import Outcome, accept, refuse


@dataclass(frozen=True, kw_only=True)
class @Type@Record:
    @one@_id: int
@fields@


def check_@one@(*, record: @Type@Record) -> Outcome[@Type@Record]:
    """Every rule of @article@, in the order of its fields."""
@checks@
    return accept(record)
