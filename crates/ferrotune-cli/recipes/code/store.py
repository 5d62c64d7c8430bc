"""Where @many_words@ are kept. No rule stands here; see `record`."""

from stock.@one@.record import @Type@Record
from stock.house import Outcome, Table, accept, refuse

@MANY@ = Table("@many@", key="@one@_id", columns=(
@columns@
))


# ---- reads ----


def fetch_@one@(*, db, @one@_id: int) -> Outcome[@Type@Record]:
    row = db.one(@MANY@, key=@one@_id)
    if row is None:
        return refuse("@one@.missing", found=@one@_id)
    return accept(@Type@Record(**row))


def list_@many@_by_@by@(*, db, @by@: @by_type@, most: int = @most@) -> list[@Type@Record]:
    rows = db.many(@MANY@, where={"@by@": @by@}, most=most)
    return [@Type@Record(**row) for row in rows]


# ---- writes ----


def store_@one@(*, db, record: @Type@Record) -> Outcome[@Type@Record]:
    db.put(@MANY@, key=record.@one@_id, row=record)
    return accept(record)


def retire_@one@(*, db, @one@_id: int) -> Outcome[int]:
    if not db.drop(@MANY@, key=@one@_id):
        return refuse("@one@.missing", found=@one@_id)
    return accept(@one@_id)
