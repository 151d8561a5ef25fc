"""Which key of an app an end-user token hangs on. The token ends with it, and draws on its limits."""

from collections.abc import Sequence

from gateway.core.limits import PAGE_ROWS_MAX
from gateway.core.words import Level
from gateway.identity.model import ApiKey
from gateway.identity.rules import model_allowed
from gateway.identity.store import Store


def can_serve(key: ApiKey, now_ms: int) -> bool:
    """A token may hang on it, for a second at least: of level app_usage, not revoked, not expired."""
    if key.level is not Level.APP_USAGE or key.revoked_at_ms is not None:
        return False
    return key.expires_at_ms is None or key.expires_at_ms // 1000 > now_ms // 1000


async def chosen(store: Store, enterprise_id: str, models: Sequence[str], now_ms: int, until_ms: int) -> ApiKey | None:
    """The newest key that allows all the models and lasts until the token's end; else the newest that allows them;
    else the newest that can serve at all; None where there is none.
    """
    allowing: ApiKey | None = None
    serving: ApiKey | None = None
    after: str | None = None
    while True:
        page = await store.keys(enterprise_id, after, PAGE_ROWS_MAX, Level.APP_USAGE)
        for key in page.rows:
            if not can_serve(key, now_ms):
                continue
            serving = serving or key
            if not all(model_allowed(key.models, model) for model in models):
                continue
            allowing = allowing or key
            if key.expires_at_ms is None or key.expires_at_ms >= until_ms:
                return key
        after = page.next_cursor
        if after is None:
            return allowing or serving
