"""Creators, apps and keys: making them, changing them, and who may.

Every method takes the actor and confines it: a creator sees its own apps, an app server and an end
user one app; what is another's does not exist for them (NotFound, never Forbidden). Input is checked
here, for every caller alike; a failed check is InvalidRequest with `param`. Every change is an act of the
trail, committed with it; no secret, digest or hint of one is in its line.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import UNSET

from gateway.core.clock import Clock
from gateway.core.errors import Conflict, Forbidden, InvalidRequest, NotFound
from gateway.core.ids import is_outside_id, new_id
from gateway.core.limits import END_USER_TOKEN_SECONDS_MAX, KEY_OVERLAP_SECONDS_MAX, PAGE_ROWS_MAX, RATE_LIMIT_MAX
from gateway.core.money import AMOUNT_MICRO_MAX
from gateway.core.words import CostPolicy, DisconnectPolicy, Enforcement
from gateway.identity import keys, rules, token_keys, tokens
from gateway.identity.cache import APP, CREATOR, KEY
from gateway.identity.model import (
    ACTIVE,
    Actor,
    ApiKey,
    App,
    AppChanges,
    Creator,
    CreatorChanges,
    EndUserToken,
    KeyChanges,
    LimitChanges,
    ManagementKey,
    NewApp,
    NewKey,
    NewToken,
    Page,
    Role,
    Trial,
)
from gateway.identity.store import Merge, Store, Taken
from gateway.trail.model import Act

Announce = Callable[[str, str], Awaitable[None]]


class Registry:
    """What may call, and in whose name. Errors: InvalidRequest, NotFound, Conflict, Forbidden, Unavailable."""

    def __init__(self, store: Store, pepper: bytes, announce: Announce, clock: Clock) -> None:
        """`announce(kind, id)` is awaited after each committed change; kinds as on the bus."""
        self._store = store
        self._pepper = pepper
        self._announce = announce
        self._clock = clock

    # ---- creators ------------------------------------------------------------------------------

    async def create_creator(self, actor: Actor, user_id: str, name: str) -> Creator:
        """A new creator; operator only. Conflict when the id is taken."""
        _operator_only(actor)
        creator = Creator(rules.outside_id(user_id, "user_id"), rules.display_name(name), ACTIVE, self._now_ms())
        act = _act(actor, "creator.create", user_id, user_id=user_id, after=_fields(creator))
        try:
            await self._store.add_creator(creator, act)
        except Taken as taken:
            raise Conflict(f"The creator {user_id} exists already.", param="user_id") from taken
        return creator

    async def creator(self, actor: Actor, user_id: str) -> Creator:
        """One creator; a creator sees only itself."""
        if is_outside_id(user_id) and (actor.role == Role.OPERATOR or actor.user_id == user_id):
            creator = await self._store.creator(user_id)
            if creator is not None:
                return creator
        raise NotFound("There is no such creator.", param="user_id")

    async def creators(self, actor: Actor, after: str | None = None, count: int = PAGE_ROWS_MAX) -> Page[Creator]:
        """All creators by id; operator only."""
        _operator_only(actor)
        return await self._store.creators(after, rules.page(after, count))

    async def update_creator(self, actor: Actor, user_id: str, changes: CreatorChanges) -> Creator:
        """Rename or suspend a creator (all its apps stop); operator only."""
        _operator_only(actor)
        creator = await self.creator(actor, user_id)
        checked: dict[str, Any] = {}
        if changes.name is not UNSET:
            checked["name"] = rules.display_name(changes.name)
        if changes.status is not UNSET:
            checked["status"] = rules.status(changes.status)
        if checked:
            act = _act(actor, "creator.update", user_id, user_id=user_id)
            await self._store.change_creator(user_id, checked, act, self._now_ms())
            await self._announce(CREATOR, user_id)
        return msgspec.structs.replace(creator, **checked)

    # ---- apps ----------------------------------------------------------------------------------

    async def create_app(self, actor: Actor, new: NewApp) -> App:
        """A new app of an existing creator. Conflict when the id is taken."""
        app = App(
            enterprise_id=rules.outside_id(new.enterprise_id, "enterprise_id"),
            user_id=rules.outside_id(new.user_id, "user_id"),
            name=rules.display_name(new.name),
            asset=rules.asset(new.asset),
            enforcement=new.enforcement,
            cost_policy=new.cost_policy,
            hold_policy=new.hold_policy,
            disconnect_policy=new.disconnect_policy,
            end_user_sources=rules.end_user_sources(new.end_user_sources),
            default_end_user=_optional_id(new.default_end_user),
            end_user_limits=rules.limits(new.end_user_limits, "end_user_limits"),
            cors_origins=rules.cors_origins(new.cors_origins),
            status=ACTIVE,
            created_at_ms=self._now_ms(),
            trial=rules.trial(new.trial),
            answer_cache=rules.answer_cache(new.answer_cache),
        )
        if actor.role not in (Role.OPERATOR, Role.CREATOR):
            raise Forbidden("Only an operator or a creator makes apps.")
        if actor.role != Role.OPERATOR:
            # Both let requests run on the operator's provider account without any wallet of the creator.
            if app.enforcement == Enforcement.ANALYTICS_ONLY:
                raise Forbidden("Only an operator makes apps that are not charged.", param="enforcement")
            if app.cost_policy == CostPolicy.OWN_KEYS:
                raise Forbidden("Only an operator makes apps with provider keys of their own.", param="cost_policy")
        _check_trial(actor, app)
        _check_disconnect(actor, app.cost_policy, app.disconnect_policy)
        await self.creator(actor, app.user_id)
        act = _act(actor, "app.create", app.enterprise_id, app, after=_fields(app))
        try:
            await self._store.add_app(app, act)
        except Taken as taken:
            raise Conflict(f"The app {app.enterprise_id} exists already.", param="enterprise_id") from taken
        return app

    async def app(self, actor: Actor, enterprise_id: str) -> App:
        """One app that the actor may see."""
        if is_outside_id(enterprise_id) and actor.enterprise_id in (None, enterprise_id):
            app = await self._store.app(enterprise_id)
            if app is not None and (actor.role == Role.OPERATOR or actor.user_id == app.user_id):
                return app
        raise NotFound("There is no such app.", param="enterprise_id")

    async def apps(self, actor: Actor, after: str | None = None, count: int = PAGE_ROWS_MAX) -> Page[App]:
        """A creator's own apps, or all for an operator, by id."""
        if actor.role == Role.OPERATOR:
            return await self._store.apps(None, after, rules.page(after, count))
        if actor.role != Role.CREATOR or actor.user_id is None:
            raise Forbidden("Only an operator or a creator lists apps.")
        return await self._store.apps(actor.user_id, after, rules.page(after, count))

    async def enterprise_ids(self) -> list[str]:
        """Every app, for the processes that look after all of them."""
        return await self._store.enterprise_ids()

    async def trial_of(self, enterprise_id: str) -> Trial | None:
        """What an app grants its end users on first sight; for the processes that open wallets."""
        app = await self._store.app(enterprise_id)
        return None if app is None else app.trial

    async def update_app(self, actor: Actor, enterprise_id: str, changes: AppChanges) -> App:
        """Change an app; `status` is the operator's alone, so that a suspended creator cannot lift it."""
        app = await self._managed_app(actor, enterprise_id)
        checked: dict[str, Any] = {}
        if changes.name is not UNSET:
            checked["name"] = rules.display_name(changes.name)
        if changes.status is not UNSET:
            checked["status"] = rules.status(changes.status)
            if actor.role != Role.OPERATOR:
                raise Forbidden("Only an operator changes the status of an app.", param="status")
        if changes.hold_policy is not UNSET:
            checked["hold_policy"] = changes.hold_policy
        if changes.disconnect_policy is not UNSET:
            checked["disconnect_policy"] = changes.disconnect_policy
            _check_disconnect(actor, app.cost_policy, changes.disconnect_policy)
        if changes.end_user_sources is not UNSET:
            checked["end_user_sources"] = rules.end_user_sources(changes.end_user_sources)
        if changes.default_end_user is not UNSET:
            checked["default_end_user"] = _optional_id(changes.default_end_user)
        if changes.end_user_limits is not UNSET:
            checked |= _limits("end_user_limits", changes.end_user_limits)
        if changes.cors_origins is not UNSET:
            checked["cors_origins"] = rules.cors_origins(changes.cors_origins)
        if changes.trial is not UNSET:
            checked["trial"] = rules.trial(changes.trial)
            _check_trial(actor, msgspec.structs.replace(app, trial=changes.trial))
        if changes.answer_cache is not UNSET:
            checked["answer_cache"] = rules.answer_cache(changes.answer_cache)
        if checked:
            act = _act(actor, "app.update", enterprise_id, app)
            after = await self._store.change_app(enterprise_id, _plain(checked), act, self._now_ms())
            await self._announce(APP, enterprise_id)
            app = msgspec.convert({**msgspec.to_builtins(app), **after}, App)
        return app

    async def forget_answers(self, actor: Actor, enterprise_id: str) -> None:
        """Say in the trail that an app's kept answers are to be forgotten."""
        app = await self._managed_app(actor, enterprise_id)
        await self._store.note(_act(actor, "app.forget_answers", enterprise_id, app), self._now_ms())

    # ---- API keys ------------------------------------------------------------------------------

    async def create_key(self, actor: Actor, enterprise_id: str, new: NewKey) -> tuple[ApiKey, str]:
        """A new API key and its secret, which is kept nowhere."""
        app = await self._managed_app(actor, enterprise_id)
        now_ms = self._now_ms()
        minted = keys.mint_api_key(self._pepper, test=new.test)
        key = ApiKey(
            id=minted.id,
            enterprise_id=enterprise_id,
            name=rules.display_name(new.name),
            level=new.level,
            hint=minted.hint,
            models=rules.models(new.models),
            limits=rules.limits(new.limits),
            created_at_ms=now_ms,
            expires_at_ms=rules.expiry(new.expires_at_ms, now_ms),
            revoked_at_ms=None,
        )
        await self._store.add_key(key, minted.digest, _act(actor, "key.create", key.id, app, after=_fields(key)))
        return key, minted.secret

    async def key(self, actor: Actor, enterprise_id: str, key_id: str) -> ApiKey:
        """One key's record."""
        await self._managed_app(actor, enterprise_id)
        return await self._key(enterprise_id, key_id)

    async def keys(self, actor: Actor, enterprise_id: str, after: str | None = None, count: int = PAGE_ROWS_MAX) -> Page[ApiKey]:
        """An app's keys, newest first, the ended ones among them."""
        await self._managed_app(actor, enterprise_id)
        return await self._store.keys(enterprise_id, after, rules.page(after, count))

    async def update_key(self, actor: Actor, enterprise_id: str, key_id: str, changes: KeyChanges) -> ApiKey:
        """Change a key. Conflict when it is revoked."""
        app = await self._managed_app(actor, enterprise_id)
        key = await self._key(enterprise_id, key_id)
        checked: dict[str, Any] = {}
        if changes.name is not UNSET:
            checked["name"] = rules.display_name(changes.name)
        if changes.models is not UNSET:
            checked["models"] = rules.models(changes.models)
        if changes.limits is not UNSET:
            checked |= _limits("limits", changes.limits)
        if changes.expires_at_ms is not UNSET:
            checked["expires_at_ms"] = rules.expiry(changes.expires_at_ms, self._now_ms())
        if checked:
            act = _act(actor, "key.update", key_id, app)
            after = await self._store.change_key(key_id, _plain(checked), act, self._now_ms())
            if after is None:
                raise Conflict("A revoked key cannot be changed.", param="key_id")
            await self._announce(KEY, key_id)
            key = msgspec.convert({**msgspec.to_builtins(key), **after}, ApiKey)
        return key

    async def rotate_key(self, actor: Actor, enterprise_id: str, key_id: str, overlap_seconds: int = 0) -> tuple[ApiKey, str]:
        """A successor with the same rights, and its secret; the old key ends after the overlap.

        Tokens hang on the key they were minted for and end with it. Conflict when the key is revoked,
        expired, or has a successor already.
        """
        rules.number(overlap_seconds, "overlap_seconds", KEY_OVERLAP_SECONDS_MAX)
        app = await self._managed_app(actor, enterprise_id)
        old = await self._key(enterprise_id, key_id)
        now_ms = self._now_ms()
        if old.expires_at_ms is not None and old.expires_at_ms <= now_ms:
            raise Conflict("An expired key cannot be rotated.", param="key_id")
        ends_ms = now_ms + overlap_seconds * 1000
        if old.expires_at_ms is not None:
            ends_ms = min(ends_ms, old.expires_at_ms)
        minted = keys.mint_api_key(self._pepper)
        new = msgspec.structs.replace(old, id=minted.id, hint=minted.hint, created_at_ms=now_ms)
        act = _act(actor, "key.rotate", key_id, app, after={"successor": _fields(new)})
        if not await self._store.rotate_key(key_id, ends_ms, new, minted.digest, act):
            raise Conflict("A key that is revoked or has a successor cannot be rotated.", param="key_id")
        await self._announce(KEY, key_id)
        return new, minted.secret

    async def revoke_key(self, actor: Actor, enterprise_id: str, key_id: str) -> ApiKey:
        """End a key and every token that hangs on it; a second time changes nothing."""
        app = await self._managed_app(actor, enterprise_id)
        key = await self._key(enterprise_id, key_id)
        if key.revoked_at_ms is None:
            await self._store.revoke_key(key_id, self._now_ms(), _act(actor, "key.revoke", key_id, app))
            key = await self._key(enterprise_id, key_id)
        # Announced even when it was revoked before: the first announcement may have been lost.
        await self._announce(KEY, key_id)
        return key

    # ---- management keys -----------------------------------------------------------------------

    async def create_management_key(
        self, actor: Actor, user_id: str, name: str, expires_at_ms: int | None = None
    ) -> tuple[ManagementKey, str]:
        """A new management key of a creator, and its secret, which is kept nowhere."""
        await self._managed_creator(actor, user_id)
        now_ms = self._now_ms()
        minted = keys.mint_management_key(self._pepper)
        key = ManagementKey(
            id=minted.id,
            user_id=user_id,
            name=rules.display_name(name),
            hint=minted.hint,
            created_at_ms=now_ms,
            expires_at_ms=rules.expiry(expires_at_ms, now_ms),
            revoked_at_ms=None,
        )
        act = _act(actor, "management_key.create", key.id, user_id=user_id, after=_fields(key))
        await self._store.add_management_key(key, minted.digest, act)
        return key, minted.secret

    async def management_keys(self, actor: Actor, after: str | None = None, count: int = PAGE_ROWS_MAX) -> Page[ManagementKey]:
        """A creator's own, or all for an operator, newest first."""
        if actor.role == Role.OPERATOR:
            return await self._store.management_keys(None, after, rules.page(after, count))
        if actor.role != Role.CREATOR or actor.user_id is None:
            raise Forbidden("Only an operator or a creator lists management keys.")
        return await self._store.management_keys(actor.user_id, after, rules.page(after, count))

    async def revoke_management_key(self, actor: Actor, key_id: str) -> ManagementKey:
        """End a management key; a second time changes nothing."""
        key = await self._store.management_key(key_id) if is_outside_id(key_id) else None
        may = actor.role == Role.OPERATOR or (actor.role == Role.CREATOR and key is not None and key.user_id == actor.user_id)
        if key is None or not may:
            raise NotFound("There is no such management key.", param="key_id")
        act = _act(actor, "management_key.revoke", key_id, user_id=key.user_id)
        await self._store.revoke_management_key(key_id, self._now_ms(), act)
        return await self._store.management_key(key_id) or key

    # ---- end-user tokens -----------------------------------------------------------------------

    async def mint_end_user_token(self, actor: Actor, enterprise_id: str, new: NewToken) -> EndUserToken:
        """A token for one end user, narrower than its key or equal to it.

        An app server's token hangs on the very key that asked for it; another one's, where no key is named, on the newest
        that is in force, allows the models and lasts as long. Conflict where the app has none in force.
        """
        app = await self.app(actor, enterprise_id)
        if actor.role not in (Role.OPERATOR, Role.CREATOR, Role.APP_SERVER):
            raise Forbidden("Only an app's server, its creator or an operator mints end-user tokens.")
        if app.status != ACTIVE:
            raise Forbidden("This app is suspended.", code="app_suspended")
        if "token" not in app.end_user_sources:
            raise Forbidden("This app does not accept end-user tokens.")
        rules.outside_id(new.platform_user_id, "platform_user_id")
        rules.number(new.expires_in_seconds, "expires_in_seconds", END_USER_TOKEN_SECONDS_MAX, 1)
        rules.number(new.spend_micro_max, "spend_micro_max", AMOUNT_MICRO_MAX)
        rules.number(new.rpm, "rpm", RATE_LIMIT_MAX)
        models = rules.models(new.models)  # checked first: every key may be asked whether it allows them
        key = await self._token_key(actor, enterprise_id, new)
        for place, model in enumerate(models):
            if not rules.model_allowed(key.models, model):
                raise InvalidRequest(f"the key does not allow {model}", param=f"models[{place}]")
        now_s = self._now_ms() // 1000
        expires_s = now_s + new.expires_in_seconds
        if key.expires_at_ms is not None:
            expires_s = min(expires_s, key.expires_at_ms // 1000)
        claims = tokens.Claims(
            aud=enterprise_id,
            sub=new.platform_user_id,
            jti=new_id("tok"),
            iat=now_s,
            exp=expires_s,
            models=models,
            spend=new.spend_micro_max,
            rpm=new.rpm,
        )
        granted = {
            "platform_user_id": claims.sub,
            "key_id": key.id,
            "models": claims.models,
            "spend_micro_max": claims.spend,
            "rpm": claims.rpm,
            "expires_at_ms": expires_s * 1000,
        }
        # Before the token is handed out: one that nobody can be told of does not leave.
        act = _act(actor, "end_user_token.create", claims.jti, app, after=granted)
        await self._store.record_token(enterprise_id, act, self._now_ms())
        return EndUserToken(
            id=claims.jti,
            token=tokens.sign(self._pepper, claims, key.id),
            enterprise_id=enterprise_id,
            platform_user_id=claims.sub,
            key_id=key.id,
            expires_at_ms=expires_s * 1000,
        )

    async def _key(self, enterprise_id: str, key_id: str) -> ApiKey:
        key = await self._store.key(enterprise_id, key_id) if is_outside_id(key_id) else None
        if key is None:
            raise NotFound("There is no such key.", param="key_id")
        return key

    async def _token_key(self, actor: Actor, enterprise_id: str, new: NewToken) -> ApiKey:
        """The app_usage key that a new token hangs on."""
        key_id, now_ms = new.key_id, self._now_ms()
        if actor.role == Role.APP_SERVER:
            if key_id not in (None, actor.key_id):
                raise NotFound("There is no such key.", param="key_id")
            key_id = actor.key_id
        if key_id is None:
            until_ms = now_ms + new.expires_in_seconds * 1000
            key = await token_keys.chosen(self._store, enterprise_id, new.models, now_ms, until_ms)
            if key is None:
                raise Conflict("The app has no key that a token could hang on: make one of level app_usage.", param="key_id")
            return key
        key = await self._key(enterprise_id, key_id)
        if not token_keys.can_serve(key, now_ms):
            raise InvalidRequest("a token hangs on an app_usage key that is neither revoked nor expired", param="key_id")
        return key

    # ---- confinement ---------------------------------------------------------------------------

    async def managed_app(self, actor: Actor, enterprise_id: str) -> App:
        """As below, for the rest of this room."""
        return await self._managed_app(actor, enterprise_id)

    async def _managed_app(self, actor: Actor, enterprise_id: str) -> App:
        """An app that the actor may change: its creator's, or any for an operator."""
        if actor.role not in (Role.OPERATOR, Role.CREATOR):
            raise NotFound("There is no such app.", param="enterprise_id")
        return await self.app(actor, enterprise_id)

    async def _managed_creator(self, actor: Actor, user_id: str) -> Creator:
        if actor.role not in (Role.OPERATOR, Role.CREATOR):
            raise NotFound("There is no such creator.", param="user_id")
        return await self.creator(actor, user_id)

    def _now_ms(self) -> int:
        return self._clock() // 1_000_000


def _operator_only(actor: Actor) -> None:
    if actor.role != Role.OPERATOR:
        raise Forbidden("Only an operator may do this.")


def _check_disconnect(actor: Actor, cost_policy: CostPolicy, policy: DisconnectPolicy) -> None:
    """What a provider made for a client that left is paid by whoever pays the provider: that one decides."""
    if actor.role != Role.OPERATOR and policy == DisconnectPolicy.CANCEL and cost_policy == CostPolicy.PLATFORM_PAYS:
        raise Forbidden("A creator cancels streams only in apps whose usage it pays for.", param="disconnect_policy")


def _check_trial(actor: Actor, app: App) -> None:
    if app.trial is None:
        return
    if app.enforcement == Enforcement.ANALYTICS_ONLY:
        raise InvalidRequest("An app that is not charged has no trials.", param="trial")
    if actor.role != Role.OPERATOR and app.cost_policy != CostPolicy.CREATOR_PAYS:
        # As with grants: otherwise a creator could give away what the operator pays the providers for.
        raise Forbidden("A creator grants trials only in apps whose usage it pays for (cost_policy creator_pays).", param="trial")


def _optional_id(value: str | None) -> str | None:
    return None if value is None else rules.outside_id(value, "default_end_user")


def _limits(name: str, changes: LimitChanges | None) -> dict[str, Any]:
    """The change of a column of limits; none when no limit is named."""
    if changes is None:
        return {name: {}}
    named = rules.limit_changes(changes, name)
    return {name: Merge(named)} if named else {}


def _plain(checked: dict[str, Any]) -> dict[str, Any]:
    """Changes as the store takes them."""
    return {name: value if isinstance(value, Merge) else msgspec.to_builtins(value) for name, value in checked.items()}


def _act(
    actor: Actor, name: str, subject: str, app: App | None = None, *, user_id: str = "", after: dict[str, Any] | None = None
) -> Act:
    """What `actor` does to `subject`, which belongs to an app or else to the creator `user_id`."""
    return Act(
        name=name,
        role=actor.role,
        actor=actor.name,
        subject=subject,
        user_id=user_id if app is None else app.user_id,
        enterprise_id="" if app is None else app.enterprise_id,
        after=after,
    )


def _fields(made: Creator | App | ApiKey | ManagementKey) -> dict[str, Any]:
    """What the trail says of something new: all but the hint, four characters of the secret."""
    fields: dict[str, Any] = msgspec.to_builtins(made)
    fields.pop("hint", None)
    return fields
