"""The demo account: a creator, an app, a key and a funded end user, made once and shown at every start.

The key is random for each installation and kept beside the other generated secrets, because a key's
secret cannot be read back from the database.
"""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from gateway.compose import Services
from gateway.core.errors import Conflict, Unauthenticated
from gateway.core.money import MICRO, USD
from gateway.core.words import Level, LotSource
from gateway.identity.model import Actor, NewApp, NewKey, Role
from gateway.ledger.model import GrantRequest, WalletKey
from gateway.settings import Settings

CREATOR: Final = "demo-creator"
APP: Final = "demo-app"
END_USER: Final = "demo-user"
FUNDS_MICRO: Final = 5 * MICRO
_ACTOR: Final = Actor(role=Role.OPERATOR, name="demo")


class Account(msgspec.Struct, frozen=True):
    """What a newcomer needs to try the gateway."""

    key: str


async def prepare(services: Services) -> Account:
    """Make what is missing of the demo account; harmless to repeat."""
    registry = services.identity.registry
    with suppress(Conflict):
        await registry.create_creator(_ACTOR, CREATOR, "Demo creator")
    with suppress(Conflict):
        await registry.create_app(_ACTOR, NewApp(enterprise_id=APP, user_id=CREATOR, name="Demo app", asset=USD))
    await services.wallets.grant(
        GrantRequest(
            wallet=WalletKey(owner=END_USER, enterprise_id=APP),
            amount_micro=FUNDS_MICRO,
            asset=USD,
            source=LotSource.PROMO,
            actor=_ACTOR.name,
            reason="demo balance",
            op_id="grant:demo",
        ),
        fingerprint="demo",
    )
    return Account(key=await _key(services))


async def _key(services: Services) -> str:
    """The demo key: the one kept, while it is good, else a fresh one."""
    path = services.settings.data_dir / "demo-key"
    try:
        kept = path.read_text("utf-8").strip()
        await services.identity.authenticate(kept)
    except (OSError, Unauthenticated):
        new = NewKey(name="demo", level=Level.APP_USAGE)
        _, kept = await services.identity.registry.create_key(_ACTOR, APP, new)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(kept)
    return kept


def lines(settings: Settings, account: Account, program: str) -> list[str]:
    """A curl line and a Python snippet that work as printed; `program` is how this one was started."""
    on_path = shutil.which("gateway")
    is_same = on_path is not None and Path(on_path).resolve() == Path(program).resolve()
    command = "gateway" if is_same or not os.path.dirname(program) else os.path.relpath(program)
    body = json.dumps({"model": "demo", "stream": True, "messages": [{"role": "user", "content": "What are you?"}]})
    return [
        f"  Demo key      {account.key}",
        f"  End user      {END_USER} of app {APP}, with {FUNDS_MICRO // MICRO} USD granted",
        "",
        "  Try it:",
        "",
        f"    curl -N {settings.public_url}/v1/chat/completions \\",
        f"      -H 'Authorization: Bearer {account.key}' \\",
        f"      -H 'X-Platform-User-Id: {END_USER}' \\",
        "      -H 'Content-Type: application/json' \\",
        f"      -d '{body}'",
        "",
        "  Or with any OpenAI client, for example in Python (.venv/bin/python has it):",
        "",
        "    from openai import OpenAI",
        f'    client = OpenAI(base_url="{settings.public_url}/v1", api_key="{account.key}",',
        f'                    default_headers={{"X-Platform-User-Id": "{END_USER}"}})',
        '    answer = client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "What are you?"}])',
        "    print(answer.choices[0].message.content)",
        "",
        "  Then look:",
        "",
        f"    {command} usage --app {APP} --events",
        f"    {command} wallets show --app {APP} --end-user {END_USER}",
        f"    {command} audit",
    ]
