"""The customer's portal: sessions, a minimal configuration. What a customer does there, a test does with `Control.dashboard`."""

from .routes import Call, page, route
from .spec import Obj
from .world import Account, World, merge_metadata


def make_configuration(world: World, account: Account, params: Obj, default: bool = False) -> Obj:
    wished = params.get("features") or {}
    cancel = {"cancellation_reason": {"enabled": False, "options": []}, "mode": "at_period_end", "proration_behavior": "none"}
    update: Obj = {"default_allowed_updates": [], "proration_behavior": "none", "schedule_at_period_end": {"conditions": []},
        "trial_update_behavior": "end_trial"}
    features = {
        "customer_update": {"allowed_updates": [], "enabled": False, **wished.get("customer_update", {})},
        "invoice_history": {"enabled": False, **wished.get("invoice_history", {})},
        "payment_method_update": {"enabled": False, "payment_method_configuration": None,
            **wished.get("payment_method_update", {})},
        "subscription_cancel": {**cancel, "enabled": False, **wished.get("subscription_cancel", {})},
        "subscription_update": {**update, "enabled": False, **wished.get("subscription_update", {})},
    }
    configuration = world.new(
        "billing_portal.configuration", "bpc_1", active=True, business_profile=dict(params.get("business_profile") or {}),
        features=features,
        is_default=default, login_page={"enabled": False, "url": None}, updated=world.now,
        default_return_url=params.get("default_return_url"),
        metadata=params.get("metadata"),
    )  # fmt: skip
    return account.add(configuration)


@route("POST", "/v1/billing_portal/configurations")
def configuration_create(call: Call) -> Obj:
    return make_configuration(call.world, call.account, call.params)


@route("GET", "/v1/billing_portal/configurations")
def configuration_list(call: Call) -> Obj:
    return page(call, call.account.of("billing_portal.configuration").values(), ("active", "is_default"))


@route("GET", "/v1/billing_portal/configurations/{configuration}")
def configuration_get(call: Call) -> Obj:
    return call.account.get("billing_portal.configuration", call.arg)


@route("POST", "/v1/billing_portal/configurations/{configuration}")
def configuration_update(call: Call) -> Obj:
    configuration = call.account.get("billing_portal.configuration", call.arg)
    for name, value in (call.params.get("features") or {}).items():
        configuration["features"][name] |= value
    merge_metadata(configuration, call.params.get("metadata"))
    return configuration


@route("POST", "/v1/billing_portal/sessions")
def session_create(call: Call) -> Obj:
    world, account = call.world, call.account
    customer = account.get("customer", call.params.get("customer", ""), "customer")
    known = list(account.of("billing_portal.configuration").values())
    if "configuration" in call.params:
        chosen = account.get("billing_portal.configuration", call.params["configuration"], "configuration")
    else:
        chosen = next((c for c in known if c["is_default"]), {}) or make_configuration(world, account, {}, default=True)
    session = world.new(
        "billing_portal.session", "bps_1", configuration=chosen["id"], customer=customer["id"],
        return_url=call.params.get("return_url"),
        url=f"https://billing.stripe.invalid/p/session/{world.id('', 20)}",
    )  # fmt: skip
    del session["metadata"]
    return account.add(session)
