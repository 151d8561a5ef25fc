"""What the tables of both databases are declared in, and the types that they share."""

from typing import Final

from sqlalchemy import BigInteger, Integer, MetaData

_NAMES: Final = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
PLATFORM: Final = MetaData(naming_convention=_NAMES)
APP: Final = MetaData(naming_convention=_NAMES)

# SQLite counts up by itself only in a column of type INTEGER.
SERIAL: Final = BigInteger().with_variant(Integer, "sqlite")
