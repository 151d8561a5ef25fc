"""Accounts: v2 (what a platform makes), their view in v1, onboarding links, revoked access; webhook endpoints and events."""

import copy
from typing import Any

from .delivery import endpoint_of
from .errors import StripeFault, bad, missing
from .routes import Call, page, route
from .spec import Obj
from .world import APPLICATION, DAY, Account, World, merge_metadata

INCLUDES = ("configuration.customer", "configuration.merchant", "configuration.recipient", "defaults", "identity", "requirements")


def when(seconds: int) -> str:
    days, rest = divmod(seconds, DAY)
    # Civil date from days since 1970 (proleptic Gregorian), so that no time zone is near it.
    z = days + 719_468
    era, doe = divmod(z, 146_097)
    yoe = (doe - doe // 1460 + doe // 36_524 - doe // 146_096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    mp = (5 * doy + 2) // 153
    day, month = doy - (153 * mp + 2) // 5 + 1, mp + 3 if mp < 10 else mp - 9
    year = yoe + era * 400 + (month <= 2)
    return f"{year:04}-{month:02}-{day:02}T{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}.000Z"


def _seen(account: Account, include: list[str]) -> Obj:
    """v2 answers null for what was not asked for with `include`."""
    full = copy.deepcopy(account.v2)
    capability: Obj = {"status": account.capability, "status_details": []}
    if account.capability != "active":
        capability["status_details"] = [{"code": "requirements_past_due", "resolution": "provide_info"}]
    wanted = full["configuration"]
    if "merchant" in wanted:
        wanted["merchant"] = {"applied": True, "capabilities": {"card_payments": capability}}
    for name in ("customer", "recipient"):
        if name in wanted:
            wanted[name] = {"applied": True}
    names = {item.partition(".")[2] for item in include if item.startswith("configuration.")}
    full["configuration"] = {name: value for name, value in wanted.items() if name in names} if names else None
    for name in ("defaults", "identity", "requirements"):
        if name not in include:
            full[name] = None
    return full


@route("POST", "/v2/core/accounts")
def create(call: Call) -> Obj:
    params, world = call.params, call.world
    country = (params.get("identity") or {}).get("country", "us").upper()
    defaults = params.get("defaults") or {}
    account = world.account(world.id("acct_1", 16), country, defaults.get("currency", "usd"))
    account.capability = "restricted"
    configuration = {name: value for name, value in (params.get("configuration") or {}).items() if value is not None}
    account.v2 = {
        "id": account.id, "object": "v2.core.account", "applied_configurations": sorted(configuration), "closed": False,
        "configuration": configuration, "contact_email": params.get("contact_email"), "created": when(world.now),
        "dashboard": params.get("dashboard"), "display_name": params.get("display_name"), "livemode": False,
        "defaults": {"currency": account.currency, "locales": None, "profile": None,
            "responsibilities": {"requirements_collector": "stripe", **defaults.get("responsibilities", {})}},
        "identity": {"country": country.lower()}, "requirements": {"entries": []},
        "metadata": dict(params.get("metadata") or {}),
    }  # fmt: skip
    return _seen(account, params.get("include", []))


def known(call: Call, account_id: str) -> Account:
    account = call.world.accounts.get(account_id)
    if account is None or (not account.is_platform and account.deauthorized):
        raise StripeFault(403, f"The provided key does not have access to account '{account_id}'.", "account_invalid", kept=False)
    if not call.account.is_platform and account is not call.account:
        raise missing("account", account_id)
    return account


@route("GET", "/v2/core/accounts/{id}")
def retrieve(call: Call) -> Obj:
    account = known(call, call.path["id"])
    if not account.v2:
        raise missing("account", account.id)
    return _seen(account, call.params.get("include", []))


@route("POST", "/v2/core/accounts/{id}")
def update(call: Call) -> Obj:
    account = known(call, call.path["id"])
    for name in ("contact_email", "display_name", "dashboard"):
        if name in call.params:
            account.v2[name] = call.params[name]
    merge_metadata(account.v2, call.params.get("metadata"))
    account.v2["configuration"] |= call.params.get("configuration") or {}
    account.v2["applied_configurations"] = sorted(account.v2["configuration"])
    return _seen(account, call.params.get("include", []))


@route("POST", "/v2/core/account_links")
def link_v2(call: Call) -> Obj:
    account = known(call, call.params["account"])
    use: Any = call.params["use_case"]
    if use["type"] not in use:
        raise bad(f"Missing required param: use_case.{use['type']}.", f"use_case[{use['type']}]", "parameter_missing")
    return {
        "object": "v2.core.account_link", "account": account.id, "created": when(call.world.now), "use_case": use,
        "livemode": False,
        "expires_at": when(call.world.now + 600),
        "url": f"https://accounts.stripe.invalid/r/{account.id}/{call.world.id('', 12)}",
    }  # fmt: skip


@route("POST", "/v1/account_links")
def link_v1(call: Call) -> Obj:
    account = known(call, call.params["account"])
    url = f"https://connect.stripe.invalid/setup/{account.id}/{call.world.id('', 12)}"
    return {"object": "account_link", "created": call.world.now, "expires_at": call.world.now + 600, "url": url}


def v1_view(account: Account) -> Obj:
    ready = account.capability == "active"
    due = [] if ready else ["business_profile.url", "external_account"]
    return {
        "id": account.id, "object": "account", "capabilities": {"card_payments": "active" if ready else "inactive"},
        "charges_enabled": ready, "country": account.country, "created": account.created, "default_currency": account.currency,
        "details_submitted": ready, "email": account.v2.get("contact_email"), "metadata": dict(account.v2.get("metadata", {})),
        "payouts_enabled": ready, "type": "none" if account.v2 else "standard",
        "requirements": {
            "alternatives": [], "current_deadline": None, "currently_due": due, "disabled_reason": None if ready
            else "requirements.past_due",
            "errors": [], "eventually_due": due, "past_due": due, "pending_verification": [],
        },
    }  # fmt: skip


@route("POST", "/v1/accounts")
def v1_create(call: Call) -> Obj:
    """A custom account, of which the platform answers for everything: it takes cards once all is there that Stripe asks for."""
    params, world = call.params, call.world
    if params.get("type") != "custom":
        raise bad("The fake makes custom accounts here; others are made by v2.", "type")
    account = world.account(world.id("acct_1", 16), params.get("country", "US"), params.get("default_currency", "usd"))
    account.v2 = {
        "id": account.id, "object": "v2.core.account", "applied_configurations": ["merchant"], "closed": False,
        "configuration": {"merchant": {}}, "contact_email": params.get("email"), "created": when(world.now), "dashboard": "none",
        "display_name": (params.get("business_profile") or {}).get("name"), "livemode": False,
        "defaults": {"currency": account.currency, "locales": None, "profile": None, "responsibilities": {
            "fees_collector": "application_custom", "losses_collector": "application", "requirements_collector": "application"}},
        "identity": {"country": account.country.lower()}, "requirements": {"entries": []},
        "metadata": dict(params.get("metadata") or {}),
    }  # fmt: skip
    set_capability(world, account, "active" if _is_verified(params) else "restricted")
    return v1_view(account)


def _is_verified(params: Obj) -> bool:
    """By the tokens of docs.stripe.com/connect/testing; anything else is no successful verification."""
    individual: Obj = params.get("individual") or {}
    told = individual.get("dob"), individual.get("id_number"), (individual.get("address") or {}).get("line1")
    terms, profile = params.get("tos_acceptance") or {}, params.get("business_profile") or {}
    return (
        told == ({"day": 1, "month": 1, "year": 1901}, "000000000", "address_full_match")
        and bool(individual.get("first_name") and individual.get("last_name") and individual.get("phone") == "0000000000")
        and bool(terms.get("date") and terms.get("ip") and profile.get("mcc") and profile.get("url"))
        and bool(params.get("external_account") and (params.get("capabilities") or {}).get("card_payments", {}).get("requested"))
    )


@route("GET", "/v1/accounts/{account}")
def v1_retrieve(call: Call) -> Obj:
    return v1_view(known(call, call.arg))


@route("GET", "/v1/account")
def v1_own(call: Call) -> Obj:
    return v1_view(call.account)


@route("GET", "/v1/accounts")
def v1_list(call: Call) -> Obj:
    return page(call, [v1_view(account) for account in call.world.connected() if not account.deauthorized])


def set_capability(world: World, account: Account, status: str) -> None:
    """Onboarding got on (or back): active, pending, restricted, unsupported."""
    account.capability = status
    world.emit(account, "account.updated", v1_view(account))


def deauthorize(world: World, account: Account) -> None:
    account.deauthorized = True
    world.emit(account, "account.application.deauthorized", {"id": APPLICATION, "object": "application", "name": "Platform"})


def deauthorize_by_platform(world: World, params: Obj) -> Obj:
    account = world.accounts.get(params.get("stripe_user_id", ""))
    if account is None or account.is_platform or account.deauthorized:
        raise StripeFault(401, "This application is not connected to that account", "invalid_client", kept=False)
    deauthorize(world, account)
    return {"stripe_user_id": account.id}


@route("POST", "/v1/webhook_endpoints")
def endpoint_create(call: Call) -> Obj:
    if not call.account.is_platform:
        raise bad("The fake's endpoints are the platform's")
    return endpoint_of(call.world, call.params)


@route("GET", "/v1/webhook_endpoints")
def endpoint_list(call: Call) -> Obj:
    return page(call, call.account.of("webhook_endpoint").values())


@route("DELETE", "/v1/webhook_endpoints/{webhook_endpoint}")
def endpoint_delete(call: Call) -> Obj:
    call.account.get("webhook_endpoint", call.arg)
    del call.account.of("webhook_endpoint")[call.arg]
    return {"id": call.arg, "object": "webhook_endpoint", "deleted": True}


@route("GET", "/v1/events")
def events(call: Call) -> Obj:
    wanted = call.params.get("types") or ([call.params["type"]] if "type" in call.params else None)
    rows = call.account.of("event").values()
    matches = [
        e for e in rows if wanted is None
        or any(e["type"] == w or (w.endswith("*") and e["type"].startswith(w[:-1])) for w in wanted)
    ]
    return page(call, matches)


@route("GET", "/v1/events/{id}")
def event(call: Call) -> Obj:
    return call.account.get("event", call.arg)
