"""Connections to the platform's database and to each app's own.

    databases = Databases("sqlite:///data/platform.db", "sqlite:///data/apps/{enterprise_id}.db")
    await databases.migrate()
    async with databases.platform.connect() as conn: ...     # reads: one snapshot
    async with databases.platform.begin() as conn: ...       # writes: committed at the end of the block

On SQLite `begin()` takes the write lock at once (BEGIN IMMEDIATE) and `connect()` does not, so writers
wait for each other instead of failing half way, and readers wait for nobody (WAL). Every commit is
synced to disk: these are books of money. A connection can reach its own database only: SQLite's ATTACH
is switched off, and Postgres has no queries across databases.
"""

import asyncio
import contextlib
import importlib
import sqlite3
import time
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import asyncpg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, QueuePool

from gateway.core.ids import is_outside_id
from gateway.core.limits import APP_ENGINES_MAX, CONNECT_TIMEOUT_S
from gateway.db.faults import SqlDown, SqlRefused, named_faults
from gateway.db.names import POSTGRES_NAME_BYTES_MAX, postgres_name, sqlite_name

PLATFORM_HEAD: Final = "0016"  # newest revision of each tree: a test compares them with the files
APP_HEAD: Final = "0011"
_HEADS: Final = {"platform": PLATFORM_HEAD, "app": APP_HEAD}

_PLACE: Final = "{enterprise_id}"
_UNATTRIBUTED: Final = "~unattributed"  # `~` cannot occur in an app's id
_SQLITE_BUSY_MS: Final = 15_000
_IDLE_S: Final = 30.0  # an engine handed out this recently is not closed, though nothing is checked out
_POOL: Final[dict[str, Any]] = {"max_overflow": 5, "hide_parameters": True}  # parameters name end users: not for messages
_CREATE_LOCK: Final = 0x6D7A6B_01  # advisory lock around CREATE DATABASE, on the server's `postgres` database


class Databases:
    """The platform's engine, and the apps' engines, opened on demand: at most `app_engines_max` stay open while idle."""

    def __init__(
        self,
        platform_url: str,
        app_url_template: str,
        *,
        app_engines_max: int = APP_ENGINES_MAX,
        idle_s: float = _IDLE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """SQLAlchemy URLs of SQLite or Postgres (with or without the driver); the template holds `{enterprise_id}` once.

        `{enterprise_id}` stands in the database's name. ValueError when it does not, or for another kind of database.
        """
        self._platform_url = _with_driver(sa.make_url(platform_url))
        self._template = _with_driver(sa.make_url(app_url_template))
        name = self._template.database or ""
        if name.count(_PLACE) != 1 or app_url_template.count(_PLACE) != 1:
            raise ValueError("the template of app databases needs {enterprise_id} once, in the database's name")
        self._name_of(_UNATTRIBUTED)  # fails early when the template leaves too little room
        self._platform = _engine(self._platform_url, pool_size=5)
        self._engines_max = app_engines_max
        self._idle_s = idle_s
        self._monotonic = monotonic
        self._open: OrderedDict[str, AsyncEngine] = OrderedDict()  # least recently asked for first
        self._asked_at: dict[str, float] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._retired: weakref.WeakSet[AsyncEngine] = weakref.WeakSet()
        self._closed = False

    @property
    def platform(self) -> AsyncEngine:
        """The platform's database."""
        return self._platform

    def app_url(self, enterprise_id: str) -> sa.URL:
        """Where an app's data lies. ValueError for a malformed id, SqlRefused for the platform's place or the server's."""
        if not is_outside_id(enterprise_id):
            raise ValueError("malformed enterprise_id")
        return self._url_of(enterprise_id)

    def place(self, enterprise_id: str | None) -> str:
        """Which database an app has (None: the platform), in a form that two databases never share; no password in it."""
        url = self._platform_url if enterprise_id is None else self.app_url(enterprise_id)
        return ":".join(str(part) for part in _place(url))

    async def app(self, enterprise_id: str) -> AsyncEngine:
        """An app's engine; the first time its database is created and migrated.

        Any well-formed id gets a database: callers check that the app exists. Don't keep the engine:
        ask again for each use, so that idle ones can be closed. Raises as `app_url`; SqlDown.
        """
        engine = self._open.get(enterprise_id)
        if engine is not None:
            self._open.move_to_end(enterprise_id)
            self._asked_at[enterprise_id] = self._monotonic()
            return engine
        return await self._opened(enterprise_id, self.app_url(enterprise_id))

    async def unattributed(self) -> AsyncEngine:
        """A database of an app's shape for bytes that no app can be told from (see `dead_event_bytes`)."""
        engine = self._open.get(_UNATTRIBUTED)
        return engine if engine is not None else await self._opened(_UNATTRIBUTED, self._url_of(_UNATTRIBUTED))

    async def migrate(self) -> None:
        """Platform database to the newest revision; created when missing. SqlDown when it does not answer."""
        with named_faults():
            await _to_newest(self._platform, "platform")

    async def migrate_app(self, enterprise_id: str) -> None:
        """One app's database to the newest revision; created when missing."""
        engine = await self.app(enterprise_id)
        with named_faults():
            await _to_newest(engine, "app")

    async def answers(self) -> bool:
        """Whether the platform's database serves right now."""
        try:
            with named_faults():
                async with self._platform.connect() as conn:
                    await conn.execute(sa.text("SELECT 1"))
        except (SqlDown, SqlRefused):
            return False
        return True

    async def clock_ms(self) -> int | None:
        """The time by the platform's database server, Unix ms; None where it has no clock of its own. SqlDown, SqlRefused."""
        if self._platform.dialect.name == "sqlite":
            return None
        with named_faults():
            async with self._platform.connect() as conn:
                return int(await conn.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp()) * 1000")))

    async def close(self) -> None:
        """Close every connection. Engines handed out must not be used after it."""
        self._closed = True
        for engine in (*self._open.values(), *self._retired, self._platform):
            await engine.dispose()
        self._open.clear()

    async def _opened(self, name: str, url: sa.URL) -> AsyncEngine:
        lock = self._opening.setdefault(name, asyncio.Lock())
        async with lock:
            if self._closed:
                raise RuntimeError("the databases are closed")
            engine = self._open.get(name)
            if engine is None:
                engine = _engine(url, pool_size=2)
                try:
                    with named_faults():
                        await _to_newest(engine, "app")
                except BaseException:  # also when cancelled: what was opened is closed, and the failure goes on
                    await engine.dispose()
                    raise
                self._open[name] = engine
            self._asked_at[name] = self._monotonic()
        self._opening.pop(name, None)
        await self._close_idle()
        return engine

    async def _close_idle(self) -> None:
        """Close the least recently used engines above the limit, but none in use or just handed out."""
        now = self._monotonic()
        for name, engine in list(self._open.items()):
            if len(self._open) <= self._engines_max:
                return
            if self._open.get(name) is not engine:
                continue  # somebody else closed it while this one waited for the one before
            if now - self._asked_at[name] >= self._idle_s and _checked_out(engine) == 0:
                del self._open[name], self._asked_at[name]
                # Whoever still has it may use it (it opens a new connection); `close` then closes that one.
                self._retired.add(engine)
                await engine.dispose()

    def _url_of(self, enterprise_id: str) -> sa.URL:
        url = self._template.set(database=self._name_of(enterprise_id))
        if _place(url) == _place(self._platform_url):
            raise SqlRefused(f"an app's database cannot be the platform's: {enterprise_id!r}")
        if _is_postgres(url) and url.database in ("postgres", "template0", "template1"):
            raise SqlRefused(f"an app's database cannot be the server's own: {enterprise_id!r}")
        return url

    def _name_of(self, enterprise_id: str) -> str:
        template = self._template.database or ""
        if not _is_postgres(self._template):
            return template.replace(_PLACE, sqlite_name(enterprise_id))
        room = POSTGRES_NAME_BYTES_MAX - (len(template.encode()) - len(_PLACE))
        return template.replace(_PLACE, postgres_name(enterprise_id, room))


def _is_postgres(url: sa.URL) -> bool:
    return url.get_backend_name() == "postgresql"


def _with_driver(url: sa.URL) -> sa.URL:
    backend = url.get_backend_name()
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ValueError("SQLite needs a file: data in memory does not outlive its connection")
        return url.set(drivername="sqlite+aiosqlite")
    if backend == "postgresql":
        return url.set(drivername="postgresql+asyncpg")
    raise ValueError(f"{backend!r} is not supported: SQLite or Postgres")


def _place(url: sa.URL) -> tuple[Any, ...]:
    """What makes two URLs the same database, whatever user they log in as."""
    if _is_postgres(url):
        return ("postgresql", url.host or url.query.get("host"), url.port or url.query.get("port"), url.database)
    # Casefolded, as the strictest of file systems would.
    return ("sqlite", str(Path(url.database or "").resolve()).casefold())


def _checked_out(engine: AsyncEngine) -> int:
    pool = engine.pool
    return pool.checkedout() if isinstance(pool, QueuePool) else 0


class _Sealed(sqlite3.Connection):
    """A connection that cannot reach another file, set up in its own thread as soon as it is open."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        self.execute(f"PRAGMA busy_timeout = {_SQLITE_BUSY_MS}")
        self.execute("PRAGMA foreign_keys = ON")
        self.execute("PRAGMA synchronous = FULL")
        self._write_ahead()

    def _write_ahead(self) -> None:
        # The switch to WAL takes an exclusive lock and, unlike everything else, does not wait for it.
        deadline = time.monotonic() + _SQLITE_BUSY_MS / 1000
        while True:
            try:
                self.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)  # in the connection's own thread
            else:
                return


class _WriteAtOnce(AsyncEngine):
    """An SQLite engine whose `begin()` takes the write lock at once.

    SQLAlchemy's documented recipe: the driver begins nothing by itself, and the `begin` event does.
    """

    __slots__ = ()

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        async with self.connect() as conn:
            await conn.execution_options(immediate=True)
            async with conn.begin():
                yield conn


def _begin(conn: sa.Connection) -> None:
    conn.exec_driver_sql("BEGIN IMMEDIATE" if conn.get_execution_options().get("immediate") else "BEGIN")


def _engine(url: sa.URL, pool_size: int) -> AsyncEngine:
    if _is_postgres(url):
        # pre_ping: a connection that died while idle is replaced instead of failing the next request.
        return create_async_engine(
            url, **_POOL, pool_size=pool_size, pool_pre_ping=True, connect_args={"timeout": CONNECT_TIMEOUT_S}
        )
    Path(url.database or "").parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    arguments = {"isolation_level": None, "factory": _Sealed}
    engine = create_async_engine(url, **_POOL, pool_size=pool_size, connect_args=arguments)
    sa.event.listen(engine.sync_engine, "begin", _begin)
    return _WriteAtOnce(engine.sync_engine)


async def _to_newest(engine: AsyncEngine, tree: str) -> None:
    """One SELECT when the database is up to date; else create it where needed and run alembic."""
    if await _revision(engine) == _HEADS[tree]:
        return
    # alembic takes 0.2 s to import and a process seldom needs it.
    migrate = importlib.import_module("gateway.db.migrate")
    # One at a time: alembic keeps "the connection being migrated" in a global of its module, and the steps of
    # two migrations would take turns on one loop.
    lock = _migrating.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    async with lock, engine.begin() as conn:
        await conn.run_sync(migrate.upgrade, tree)


_migrating: Final[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]] = weakref.WeakKeyDictionary()


async def _revision(engine: AsyncEngine) -> str | None:
    try:
        async with engine.connect() as conn:
            return (await conn.exec_driver_sql("SELECT version_num FROM alembic_version")).scalar()
    except asyncpg.InvalidCatalogNameError:
        await _create_postgres(engine.url)
    except DBAPIError as fault:
        if isinstance(fault.driver_exception, asyncpg.InvalidCatalogNameError):
            await _create_postgres(engine.url)
        elif "alembic_version" not in str(fault.orig):  # anything but "no such table"
            raise
    return None


async def _create_postgres(url: sa.URL) -> None:
    """CREATE DATABASE on the URL's server, once, however many processes want it."""
    anywhere = url.set(database="postgres")
    timeout = {"timeout": CONNECT_TIMEOUT_S}
    server = create_async_engine(anywhere, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args=timeout)
    try:
        async with server.connect() as conn:
            await conn.exec_driver_sql(f"SELECT pg_advisory_lock({_CREATE_LOCK})")
            there = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
            if (await conn.execute(there, {"name": url.database})).scalar() is None:
                quoted = conn.dialect.identifier_preparer.quote_identifier(url.database or "")
                await conn.exec_driver_sql(f"CREATE DATABASE {quoted}")
    finally:
        await server.dispose()
