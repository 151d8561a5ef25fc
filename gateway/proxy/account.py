"""What a caller may ask about itself: its models, its balance and limits, one request's record."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway.balance.model import Balance, BalanceUnavailable, LimitKind, Unfunded, WalletState
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import MissingEndUser, NotFound
from gateway.core.ids import app_wallet, platform_wallet
from gateway.core.money import USD, decimal_from_micro
from gateway.core.words import CostPolicy, Enforcement, Level
from gateway.identity.model import Limits, Principal
from gateway.proxy import quote, refusals, wire
from gateway.proxy.models import Listed, RatesOf, told_to
from gateway.proxy.ports import Gate, Opener, Prices
from gateway.proxy.ticket import Call
from gateway.proxy.uncharged import Uncharged

ListedModels = Callable[[], Sequence[Listed]]
Peek = Callable[[str], Awaitable[WalletState]]
LentLeft = Callable[[str], Awaitable[int | None]]
FindUsage = Callable[[str, str, bool], Awaitable[Mapping[str, Any] | None]]
_RECORD_WAITS: Final = (0.05, 0.1, 0.2, 0.4, 0.8)  # the drain is a moment behind the answer


class Account:
    """Handlers of `routes.AccountEndpoint`; each returns JSON."""

    def __init__(
        self,
        gate: Gate,
        balance: Balance,
        opener: Opener,
        peek: Peek,
        lent_left: LentLeft,
        prices: Prices,
        listed_models: ListedModels,
        find_usage: FindUsage,
        clock: Clock,
        uncharged: Uncharged,
    ) -> None:
        """What it asks of the rooms below.

        `peek(wallet)` is a wallet as the books have it, `lent_left(wallet)` what is left there of what is lent beyond
        allowances (None: they do not answer); `listed_models` gives every model that can be listed;
        `find_usage(enterprise_id, request_id, whole)` the record as JSON-ready fields, not `whole` what an
        end user may see.
        """
        self._gate = gate
        self._balance = balance
        self._opener = opener
        self._peek = peek
        self._lent_left = lent_left
        self._prices = prices
        self._listed_models = listed_models
        self._find_usage = find_usage
        self._clock = clock
        self._uncharged = uncharged

    async def models(self, _: Call, principal: Principal) -> bytes:
        """OpenAI's list of models, those that this key may use, with what this caller pays for them.

        A model without a price is there for those alone whose requests for it are not refused for that.
        """
        may_use, rates_of = self._gate.may_use, await self._rates(principal)
        usable = [each for each in self._listed_models() if may_use(principal, each.name)]
        usable = [each for each in usable if self._sold(principal, each, rates_of)]
        return wire.encode_json({"object": "list", "data": told_to(usable, rates_of)})

    async def model(self, call: Call, principal: Principal) -> bytes:
        """One model; NotFound when it is not listed for this key."""
        asked = call.raw.decode()
        for model in self._listed_models():
            if model.name == asked and self._gate.may_use(principal, asked):
                rates_of = await self._rates(principal)
                if self._sold(principal, model, rates_of):
                    return wire.encode_json(told_to([model], rates_of)[0])
        raise NotFound(f"The model {asked!r} does not exist here.", code="model_not_found", param="model")

    def _sold(self, principal: Principal, model: Listed, rates_of: RatesOf) -> bool:
        """Whether everybody who would pay has a price for it, as `quote.payers` asks."""
        app = principal.app
        if app.enforcement == Enforcement.ANALYTICS_ONLY:
            return True
        if rates_of(model.name, model.deployment_id) is None:
            return False
        if principal.level == Level.PLATFORM or app.cost_policy != CostPolicy.CREATOR_PAYS:
            return True
        return self._prices.platform(model.name, model.deployment_id, now_ms(self._clock)) is not None

    async def _rates(self, principal: Principal) -> RatesOf:
        """What this caller pays, by the name of a model and its deployment."""
        app, at_ms, prices = principal.app, now_ms(self._clock), self._prices
        if app.enforcement == Enforcement.ANALYTICS_ONLY:
            return lambda _, __: None
        if principal.level == Level.PLATFORM:
            return lambda model, deployment_id: prices.platform(model, deployment_id, at_ms)
        if prices.app_cached(app.enterprise_id, app.asset, "", "", at_ms) is False:
            await prices.load_app(app.enterprise_id)
        return lambda model, deployment_id: (
            prices.app_cached(app.enterprise_id, app.asset, model, deployment_id, at_ms) or None
        )

    async def balance(self, call: Call, principal: Principal) -> bytes:
        """The wallet that this caller's requests draw on, and the caller's limits with what is left of them.

        An end user who is seen here first is granted the app's trial here. Counts as a request a minute. RateLimited.
        """
        app = principal.app
        end_user: str | None = None
        if principal.level == Level.PLATFORM:
            wallet, role, asset = platform_wallet(app.user_id), "creator", USD
        else:
            end_user = self._gate.resolve_end_user(principal, call.headers, {})
            if end_user is None:
                raise MissingEndUser("name the end user, for example with X-Platform-User-Id")
            wallet, role, asset = app_wallet(app.enterprise_id, end_user), "end_user", app.asset
        await self._uncharged.counted(call, "/balance", principal, end_user)
        answer: dict[str, Any] = {
            "object": "balance",
            "level": principal.level,
            "enterprise_id": app.enterprise_id,
            "platform_user_id": end_user,
            "enforcement": app.enforcement,
            "wallet": None,
            "limits": _named(principal.limits),
        }
        if principal.token_id is not None:
            answer["token_limits"] = _named(principal.token_limits)
        if end_user is not None:
            answer["end_user_limits"] = _named(app.end_user_limits)
        if app.enforcement != Enforcement.ANALYTICS_ONLY:
            state = await self._wallet(principal.shard, wallet)
            answer["wallet"] = {
                "role": role,
                "asset": asset,
                "available": decimal_from_micro(state.available_micro),
                "available_micro": state.available_micro,
                "held_micro": state.held_micro,
                **await self._overage(wallet, state),
            }
        answer["remaining"] = await self._remaining(principal, end_user or "", app.enforcement != Enforcement.ANALYTICS_ONLY)
        return wire.encode_json(answer)

    async def _overage(self, wallet: str, state: WalletState) -> dict[str, Any]:
        """The part of what is available that is overage, to be billed: as it burns last, whatever is not drained yet."""
        left = await self._lent_left(wallet) if state.available_micro > 0 else 0
        if left is None:
            return {"overage": None, "overage_micro": None}
        overage = min(left, max(state.available_micro, 0))
        return {"overage": decimal_from_micro(overage), "overage_micro": overage}

    async def _remaining(self, principal: Principal, end_user: str, charged: bool) -> dict[str, dict[str, int]]:
        """What is left of each limit, under the name that the answer has its owner's limits by."""
        limits = quote.limits_of(principal, end_user, charged)
        try:
            used = await self._balance.used(principal.shard, limits) if limits else []
        except BalanceUnavailable as broken:
            raise refusals.balance_unavailable() from broken
        left: dict[str, dict[str, int]] = {}
        for limit, count in zip(limits, used, strict=True):
            left.setdefault(_LIMITS_OF[limit.subject[0]], {})[_FIELDS[limit.kind]] = max(0, limit.maximum - count)
        return left

    async def usage(self, call: Call, principal: Principal) -> bytes:
        """One request's record; NotFound while it is not in the books, and for requests of others. RateLimited as `balance`."""
        request_id = call.raw.decode()
        await self._uncharged.counted(call, "/usage", principal, principal.platform_user_id)
        for wait_s in (*_RECORD_WAITS, None):
            record = await self._find_usage(principal.app.enterprise_id, request_id, principal.token_id is None)
            own = record is not None and principal.platform_user_id in (None, record["platform_user_id"])
            if record is not None and own and record["level"] == principal.level:
                return wire.encode_json(record)
            if record is not None or wait_s is None:
                break
            await asyncio.sleep(wait_s)
        raise NotFound("There is no record of that request (yet).", code="usage_not_found", param="request_id")

    async def _wallet(self, shard: int, wallet: str) -> WalletState:
        """One that the hot store does not know is opened, as a request would; of nobody, asking makes none."""
        try:
            state = (await self._balance.read(shard, [wallet]))[0]
            if state is None and await self._opener.open_missing(shard, (wallet,), (wallet,)):
                state = (await self._balance.read(shard, [wallet]))[0]
        except Unfunded:
            return WalletState(0, 0)
        except BalanceUnavailable as broken:
            raise refusals.balance_unavailable() from broken
        return state if state is not None else await self._peek(wallet)


_LIMITS_OF: Final = {"k": "limits", "t": "token_limits", "u": "end_user_limits"}  # by whose counter it is
_FIELDS: Final = {
    LimitKind.REQUESTS_PER_MINUTE: "rpm",
    LimitKind.TOKENS_PER_MINUTE: "tpm",
    LimitKind.CONCURRENCY: "concurrency",
    LimitKind.SPEND_PER_DAY: "spend_micro_per_day",
    LimitKind.SPEND_PER_MONTH: "spend_micro_per_month",
    LimitKind.SPEND_TOTAL: "spend_micro_total",
}


def _named(limits: Limits) -> dict[str, int]:
    """The limits that are set."""
    return {name: value for name, value in msgspec.structs.asdict(limits).items() if value is not None}
