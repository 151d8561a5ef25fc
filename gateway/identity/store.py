"""Identity's rows in the platform's database: the only SQL of this room.

A database that does not answer is `Unavailable`, so that no caller sees an engine's own error.
Every change is one transaction of its own, with its line in the trail, committed before the method returns.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Select, Table, and_, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.core.errors import Unavailable
from gateway.db.faults import SqlDown, SqlRefused, named_faults
from gateway.db.tables import api_keys, apps, creators, management_keys, provider_keys
from gateway.identity.model import ApiKey, App, Creator, ManagementKey, Page
from gateway.trail import model as trail_model
from gateway.trail import store as trail
from gateway.trail.model import Act

Value = TypeVar("Value", bound=msgspec.Struct)
_Query = Select[*tuple[Any, ...]]


class Merge(msgspec.Struct, frozen=True):
    """Fields of a JSON object to set, None to take one away; those that are not named stay."""

    fields: Mapping[str, Any]


class Taken(Exception):
    """The primary key exists already."""


class KeyRecord(msgspec.Struct, frozen=True):
    """All that authentication needs, from one query."""

    digest: str
    key: ApiKey
    app: App
    creator_status: str


class SealedKey(msgspec.Struct, frozen=True):
    """An app's own key at a provider, as nobody can read it; `sealed_by` names the key that opens it."""

    enterprise_id: str
    provider: str
    sealed: str
    sealed_by: str
    hint: str
    created_at_ms: int


_CREATOR = [creators.c.user_id, creators.c.name, creators.c.status, creators.c.created_at]
_APP = [column for column in apps.c if column.name != "updated_at"]
_KEY = [column for column in api_keys.c if column.name not in ("digest", "rotated_to")]
_MANAGEMENT = [column for column in management_keys.c if column.name != "digest"]
_TRAIL: Final = trail.trail_of(None)
_FIELD = {"created_at": "created_at_ms", "expires_at": "expires_at_ms", "revoked_at": "revoked_at_ms"}


class Store:
    """Reads and writes of creators, apps and keys. Amounts and times as in `model.py`.

    Where a method takes an act, the act's line is committed with the change, `before` read under the same locks.
    """

    def __init__(self, engine: AsyncEngine, app_engine: Callable[[str], Awaitable[AsyncEngine]] | None = None) -> None:
        """`engine` is the platform's; `app_engine` gives an app's own, where the trail of end users' tokens is."""
        self._engine = engine
        self._app_engine = app_engine

    async def key_record(self, key_id: str) -> KeyRecord | None:
        """A key with its app and its creator's status."""
        # Names of the three tables overlap, so the columns are told apart by place.
        query = (
            select(api_keys.c.digest, creators.c.status, *_KEY, *_APP)
            .join_from(api_keys, apps, api_keys.c.enterprise_id == apps.c.enterprise_id)
            .join(creators, apps.c.user_id == creators.c.user_id)
            .where(api_keys.c.id == key_id)
        )
        async with self._connection() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            return None
        split = 2 + len(_KEY)
        return KeyRecord(
            digest=row[0],
            creator_status=row[1],
            key=_value(ApiKey, [column.name for column in _KEY], row[2:split]),
            app=_value(App, [column.name for column in _APP], row[split:]),
        )

    async def management_record(self, key_id: str) -> tuple[str, ManagementKey, str] | None:
        """A management key: its digest, its record, its creator's status."""
        query = (
            select(management_keys.c.digest, creators.c.status, *_MANAGEMENT)
            .join_from(management_keys, creators, management_keys.c.user_id == creators.c.user_id)
            .where(management_keys.c.id == key_id)
        )
        async with self._connection() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            return None
        return row[0], _value(ManagementKey, [column.name for column in _MANAGEMENT], row[2:]), row[1]

    async def add_creator(self, creator: Creator, act: Act) -> None:
        """Insert; raises Taken."""
        await self._add(creators, _columns(creator), act, creator.created_at_ms)

    async def add_app(self, app: App, act: Act) -> None:
        """Insert; raises Taken. The creator must exist."""
        await self._add(apps, {**_columns(app), "updated_at": app.created_at_ms}, act, app.created_at_ms)

    async def add_key(self, key: ApiKey, digest: str, act: Act) -> None:
        """Insert; the app must exist."""
        await self._add(api_keys, {**_columns(key), "digest": digest}, act, key.created_at_ms)

    async def add_management_key(self, key: ManagementKey, digest: str, act: Act) -> None:
        """Insert; the creator must exist."""
        await self._add(management_keys, {**_columns(key), "digest": digest}, act, key.created_at_ms)

    async def record_token(self, enterprise_id: str, act: Act, at_ms: int) -> None:
        """That a token was issued to an end user: in the app's own database, where end users may be named."""
        assert self._app_engine is not None, "tokens are issued where the apps' databases are at hand"
        with _translated():
            async with (await self._app_engine(enterprise_id)).begin() as connection:
                await trail.append(connection, trail.trail_of(enterprise_id), act, at_ms)

    async def creator(self, user_id: str) -> Creator | None:
        """One creator."""
        return await self._one(Creator, select(*_CREATOR).where(creators.c.user_id == user_id))

    async def app(self, enterprise_id: str) -> App | None:
        """One app."""
        return await self._one(App, select(*_APP).where(apps.c.enterprise_id == enterprise_id))

    async def key(self, enterprise_id: str, key_id: str) -> ApiKey | None:
        """One key of one app."""
        where = and_(api_keys.c.id == key_id, api_keys.c.enterprise_id == enterprise_id)
        return await self._one(ApiKey, select(*_KEY).where(where))

    async def management_key(self, key_id: str) -> ManagementKey | None:
        """One management key."""
        return await self._one(ManagementKey, select(*_MANAGEMENT).where(management_keys.c.id == key_id))

    async def creators(self, after: str | None, count: int) -> Page[Creator]:
        """Creators by id, upwards."""
        query = select(*_CREATOR).order_by(creators.c.user_id)
        if after is not None:
            query = query.where(creators.c.user_id > after)
        return await self._page(Creator, query, count, "user_id")

    async def apps(self, user_id: str | None, after: str | None, count: int) -> Page[App]:
        """Apps by id, upwards; of one creator, or all."""
        query = select(*_APP).order_by(apps.c.enterprise_id)
        if user_id is not None:
            query = query.where(apps.c.user_id == user_id)
        if after is not None:
            query = query.where(apps.c.enterprise_id > after)
        return await self._page(App, query, count, "enterprise_id")

    async def enterprise_ids(self) -> list[str]:
        """Every app's id."""
        async with self._connection() as connection:
            return list((await connection.execute(select(apps.c.enterprise_id))).scalars())

    async def keys(self, enterprise_id: str, after: str | None, count: int, level: str | None = None) -> Page[ApiKey]:
        """Keys of an app, newest first."""
        query = select(*_KEY).where(api_keys.c.enterprise_id == enterprise_id).order_by(api_keys.c.id.desc())
        if level is not None:
            query = query.where(api_keys.c.level == level)
        if after is not None:
            query = query.where(api_keys.c.id < after)
        return await self._page(ApiKey, query, count, "id")

    async def management_keys(self, user_id: str | None, after: str | None, count: int) -> Page[ManagementKey]:
        """Management keys, newest first; of one creator, or all."""
        query = select(*_MANAGEMENT).order_by(management_keys.c.id.desc())
        if user_id is not None:
            query = query.where(management_keys.c.user_id == user_id)
        if after is not None:
            query = query.where(management_keys.c.id < after)
        return await self._page(ManagementKey, query, count, "id")

    async def change_creator(self, user_id: str, changes: Mapping[str, Any], act: Act, at_ms: int) -> None:
        """Set fields, named as in `model.Creator`."""
        await self._change(creators, creators.c.user_id == user_id, changes, act, at_ms)

    async def change_app(self, enterprise_id: str, changes: Mapping[str, Any], act: Act, at_ms: int) -> dict[str, Any]:
        """Set fields, named as in `model.App`, or `Merge` into them; what they are now."""
        rule = apps.c.enterprise_id == enterprise_id
        return await self._change(apps, rule, changes, act, at_ms, {"updated_at": at_ms}) or {}

    async def note(self, act: Act, at_ms: int) -> None:
        """A line in the trail of what changed nothing here."""
        async with self._transaction() as connection:
            await trail.append(connection, trail.trail_of(None), act, at_ms)

    async def change_key(self, key_id: str, changes: Mapping[str, Any], act: Act, at_ms: int) -> dict[str, Any] | None:
        """Set fields, named as in `model.ApiKey`, or `Merge` into them; what they are now, or None when the key is revoked."""
        return await self._change(api_keys, _unrevoked(api_keys, key_id), changes, act, at_ms)

    async def revoke_key(self, key_id: str, at_ms: int, act: Act) -> None:
        """Mark revoked; the first time stays."""
        await self._change(api_keys, _unrevoked(api_keys, key_id), {"revoked_at_ms": at_ms}, act, at_ms)

    async def revoke_management_key(self, key_id: str, at_ms: int, act: Act) -> None:
        """Mark revoked; the first time stays."""
        await self._change(management_keys, _unrevoked(management_keys, key_id), {"revoked_at_ms": at_ms}, act, at_ms)

    async def rotate_key(self, old_id: str, old_expires_at_ms: int, new: ApiKey, digest: str, act: Act) -> bool:
        """Add the successor and end the old key, in one transaction.

        False, and no change, when the old key is revoked or has a successor already.
        """
        rule = and_(_unrevoked(api_keys, old_id), api_keys.c.rotated_to.is_(None))
        ends = {"rotated_to": new.id, "expires_at_ms": old_expires_at_ms}
        async with self._transaction() as connection:
            found = await _set(connection, api_keys, rule, ends)
            if found is None:
                return False
            before, _ = found
            await connection.execute(insert(api_keys).values({**_columns(new), "digest": digest}))
            line = msgspec.structs.replace(act, before=before, after={**ends, **(act.after or {})})
            await trail.append(connection, _TRAIL, line, new.created_at_ms)
        return True

    async def provider_keys(self, enterprise_id: str) -> list[SealedKey]:
        """An app's own keys, by provider."""
        query = select(*provider_keys.c).where(provider_keys.c.enterprise_id == enterprise_id).order_by(provider_keys.c.provider)
        async with self._connection() as connection:
            found = (await connection.execute(query)).all()
        return [_value(SealedKey, [column.name for column in provider_keys.c], row) for row in found]

    async def put_provider_key(self, row: SealedKey, act: Act, at_ms: int) -> None:
        """Set or replace. The app must exist."""
        async with self._transaction() as connection:
            app = select(apps.c.enterprise_id).where(apps.c.enterprise_id == row.enterprise_id)
            await connection.execute(app.with_for_update())  # two at once take turns
            await connection.execute(delete(provider_keys).where(_provider_key(row.enterprise_id, row.provider)))
            await connection.execute(insert(provider_keys).values(**_columns(row)))
            await trail.append(connection, _TRAIL, act, at_ms)

    async def delete_provider_key(self, enterprise_id: str, provider: str, act: Act, at_ms: int) -> bool:
        """False, and no line in the trail, when there is none."""
        async with self._transaction() as connection:
            gone = await connection.execute(delete(provider_keys).where(_provider_key(enterprise_id, provider)))
            if gone.rowcount:
                await trail.append(connection, _TRAIL, act, at_ms)
            return bool(gone.rowcount)

    async def _change(
        self,
        table: Table,
        rule: ColumnElement[bool],
        changes: Mapping[str, Any],
        act: Act,
        at_ms: int,
        more: Mapping[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """Set fields of the one row under `rule`, say so in the trail, return them; None, and no line, when there is none."""
        async with self._transaction() as connection:
            found = await _set(connection, table, rule, changes, more)
            if found is None:
                return None
            before, after = found
            line = msgspec.structs.replace(act, before=_told(act, before), after=_told(act, after))
            await trail.append(connection, _TRAIL, line, at_ms)
        return after

    async def _add(self, table: Table, values: Mapping[str, Any], act: Act, at_ms: int) -> None:
        async with self._transaction() as connection:
            try:
                with named_faults():
                    await connection.execute(insert(table).values(**values))
            except SqlRefused as taken:
                raise Taken from taken
            line = msgspec.structs.replace(act, after=_told(act, act.after or {}))
            await trail.append(connection, _TRAIL, line, at_ms)

    async def _one(self, kind: type[Value], query: _Query) -> Value | None:
        async with self._connection() as connection:
            found = (await connection.execute(query)).first()
        return None if found is None else _value(kind, [column.name for column in query.selected_columns], found)

    async def _page(self, kind: type[Value], query: _Query, count: int, cursor: str) -> Page[Value]:
        async with self._connection() as connection:
            found = (await connection.execute(query.limit(count + 1))).all()
        names = [column.name for column in query.selected_columns]
        rows = tuple(_value(kind, names, row) for row in found[:count])
        return Page(rows, getattr(rows[-1], cursor) if len(found) > count else None)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        with _translated():
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        with _translated():
            async with self._engine.begin() as connection:
                yield connection


async def _set(
    connection: AsyncConnection,
    table: Table,
    rule: ColumnElement[bool],
    changes: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Change the one row under `rule`: (what the fields were, what they are), or None when there is no such row.

    The row is locked before it is read, so that nobody changes it between what was and what is.
    """
    columns = [table.c[name] for name in _renamed(changes)]
    found = (await connection.execute(select(*columns).where(rule).with_for_update())).first()
    if found is None:
        return None
    before = dict(zip(changes, found, strict=True))
    after = {name: _merged(before[name], change) if isinstance(change, Merge) else change for name, change in changes.items()}
    await connection.execute(update(table).where(rule).values({**_renamed(after), **(more or {})}))
    return before, after


def _merged(held: Mapping[str, Any], change: Merge) -> dict[str, Any]:
    return {name: value for name, value in {**held, **change.fields}.items() if value is not None}


def _unrevoked(table: Table, key_id: str) -> ColumnElement[bool]:
    return and_(table.c.id == key_id, table.c.revoked_at.is_(None))


def _provider_key(enterprise_id: str, provider: str) -> ColumnElement[bool]:
    return and_(provider_keys.c.enterprise_id == enterprise_id, provider_keys.c.provider == provider)


def _told(act: Act, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What the platform's trail may say: an end user by a digest alone."""
    told = dict(fields)
    if "default_end_user" in told:
        told["default_end_user"] = trail_model.named(told["default_end_user"], act.enterprise_id)
    return told


@contextmanager
def _translated() -> Iterator[None]:
    try:
        with named_faults():
            yield
    except SqlDown as down:
        raise Unavailable("The platform database does not answer. Try again shortly.", retry_after_s=1) from down


def _columns(value: msgspec.Struct) -> dict[str, Any]:
    return _renamed(msgspec.to_builtins(value))


def _renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removesuffix("_at_ms") + "_at" if name.endswith("_at_ms") else name: fields[name] for name in fields}


def _value(kind: type[Value], names: Sequence[str], row: Sequence[Any]) -> Value:
    # Column names are a subclass of str, which msgspec does not take for one.
    return msgspec.convert({_FIELD.get(name, str(name)): cell for name, cell in zip(names, row, strict=True)}, kind)
