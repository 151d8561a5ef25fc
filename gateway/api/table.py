"""The route table: every endpoint of the management API, with who may call it. What is not here does not exist.

Roles here decide who gets in; each handler then confines the actor to what is its own.
"""

from functools import cache
from typing import Final

from gateway.api import apps, billing, keys, money, pages, price_lists, prices, provider_keys, top_ups, trail, usage, webhooks
from gateway.api.billing_shapes import (
    AccountBody,
    BillingAccountAnswer,
    CheckoutAnswer,
    CheckoutBody,
    FeeTermAnswer,
    FeeTermBody,
    FeeTermsQuery,
    OnboardingAnswer,
    OnboardingBody,
    PlanAnswer,
    PlanBody,
    PlansQuery,
    PortalAnswer,
    PortalBody,
    PurchaseAnswer,
    RefundAnswer,
    RefundBody,
    SalesQuery,
    SellerQuery,
    SubscriptionAnswer,
    SubscriptionPatch,
)
from gateway.api.endpoint import ANYONE_KNOWN, MANAGERS, OPERATOR, PUBLIC, SERVERS, ApiContext, Call, Endpoint
from gateway.api.openapi import described
from gateway.api.price_shapes import (
    OfferedList,
    PriceAnswer,
    PriceBookAnswer,
    PriceBookBody,
    PriceDifference,
    PriceDifferencesQuery,
    PriceListAnswer,
    PriceListBody,
    PricesQuery,
)
from gateway.api.provider_keys import ProviderKeyAnswer, ProviderKeyBody
from gateway.api.shapes import (
    AccountAnswer,
    ActAnswer,
    AppAnswer,
    AppBody,
    AppPatch,
    AuditLogQuery,
    BookQuery,
    CreatorAnswer,
    CreatorBody,
    CreatorPatch,
    EventsQuery,
    ForgottenAnswer,
    GrantAnswer,
    GrantBody,
    KeyAnswer,
    KeyBody,
    KeyPatch,
    Listing,
    ManagementKeyAnswer,
    ManagementKeyBody,
    OpenApi,
    PageQuery,
    RotateBody,
    TokenAnswer,
    TokenBody,
    TransactionAnswer,
    UsageEventAnswer,
    UsageQuery,
    UsageTotalAnswer,
    WalletAnswer,
)
from gateway.core.limits import PRICE_LIST_BYTES_MAX


async def openapi(context: ApiContext, call: Call) -> OpenApi:
    """GET /api/openapi.json."""
    return _description(context.billing is not None)


def offered(context: ApiContext) -> tuple[Endpoint, ...]:
    """What is there: without billing, nothing that sells."""
    return _offered(context.billing is not None)


@cache
def _description(sells: bool) -> OpenApi:
    return described(_offered(sells))


def _offered(sells: bool) -> tuple[Endpoint, ...]:
    return tuple(endpoint for endpoint in TABLE if sells or not endpoint.sells)


_V1: Final = "/api/v1"
_APP: Final = _V1 + "/apps/{enterprise_id}"
_KEY: Final = _APP + "/keys/{key_id}"

TABLE: Final[tuple[Endpoint, ...]] = (
    Endpoint("GET", "/api/openapi.json", PUBLIC, openapi, OpenApi, "This description"),
    # Creators
    Endpoint("POST", f"{_V1}/creators", OPERATOR, apps.create_creator, CreatorAnswer, "Make a creator", CreatorBody, status=201),
    Endpoint("GET", f"{_V1}/creators", OPERATOR, apps.list_creators, Listing[CreatorAnswer], "List creators", query=PageQuery),
    Endpoint("GET", f"{_V1}/creators/{{user_id}}", MANAGERS, apps.get_creator, CreatorAnswer, "Show a creator"),
    Endpoint(
        "PATCH",
        f"{_V1}/creators/{{user_id}}",
        OPERATOR,
        apps.update_creator,
        CreatorAnswer,
        "Rename or suspend a creator",
        CreatorPatch,
    ),
    # Apps
    Endpoint("POST", f"{_V1}/apps", MANAGERS, apps.create_app, AppAnswer, "Make an app", AppBody, status=201),
    Endpoint("GET", f"{_V1}/apps", MANAGERS, apps.list_apps, Listing[AppAnswer], "List apps", query=PageQuery),
    Endpoint("GET", _APP, MANAGERS, apps.get_app, AppAnswer, "Show an app"),
    Endpoint("PATCH", _APP, MANAGERS, apps.update_app, AppAnswer, "Change an app", AppPatch),
    Endpoint("DELETE", _APP + "/answers", MANAGERS, apps.forget_answers, ForgottenAnswer, "Forget the kept answers of an app"),
    # API keys and end-user tokens
    Endpoint("POST", f"{_APP}/keys", MANAGERS, keys.create_key, KeyAnswer, "Make an API key", KeyBody, status=201),
    Endpoint("GET", f"{_APP}/keys", MANAGERS, keys.list_keys, Listing[KeyAnswer], "List API keys", query=PageQuery),
    Endpoint("GET", _KEY, MANAGERS, keys.get_key, KeyAnswer, "Show an API key"),
    Endpoint("PATCH", _KEY, MANAGERS, keys.update_key, KeyAnswer, "Change an API key", KeyPatch),
    Endpoint("DELETE", _KEY, MANAGERS, keys.revoke_key, KeyAnswer, "Revoke an API key"),
    Endpoint("POST", f"{_KEY}/rotate", MANAGERS, keys.rotate_key, KeyAnswer, "Replace an API key", RotateBody, status=201),
    Endpoint(
        "POST",
        f"{_APP}/end-user-tokens",
        SERVERS,
        keys.create_token,
        TokenAnswer,
        "Mint an end-user token",
        TokenBody,
        status=201,
    ),
    # An app's own provider keys
    Endpoint(
        "PUT",
        f"{_APP}/provider-keys/{{provider}}",
        MANAGERS,
        provider_keys.put,
        ProviderKeyAnswer,
        "Set an app's own key at a provider",
        ProviderKeyBody,
    ),
    Endpoint(
        "GET",
        f"{_APP}/provider-keys",
        MANAGERS,
        provider_keys.listed,
        Listing[ProviderKeyAnswer],
        "List an app's own provider keys, without what they are",
    ),
    Endpoint(
        "DELETE",
        f"{_APP}/provider-keys/{{provider}}",
        MANAGERS,
        provider_keys.delete,
        ProviderKeyAnswer,
        "Forget an app's own key at a provider",
    ),
    # Management keys
    Endpoint(
        "POST",
        f"{_V1}/management-keys",
        MANAGERS,
        keys.create_management_key,
        ManagementKeyAnswer,
        "Make a management key",
        ManagementKeyBody,
        status=201,
    ),
    Endpoint(
        "GET",
        f"{_V1}/management-keys",
        MANAGERS,
        keys.list_management_keys,
        Listing[ManagementKeyAnswer],
        "List management keys",
        query=PageQuery,
    ),
    Endpoint(
        "DELETE",
        f"{_V1}/management-keys/{{key_id}}",
        MANAGERS,
        keys.revoke_management_key,
        ManagementKeyAnswer,
        "Revoke a management key",
    ),
    # Money
    Endpoint(
        "POST",
        f"{_V1}/grants",
        MANAGERS,
        money.grant,
        GrantAnswer,
        "Put money into a wallet",
        GrantBody,
        status=201,
        idempotent=True,
    ),
    Endpoint("GET", f"{_V1}/wallets/{{user_id}}", MANAGERS, money.creator_wallet, WalletAnswer, "Show a creator's wallet"),
    Endpoint(
        "GET",
        f"{_APP}/wallets/{{platform_user_id}}",
        ANYONE_KNOWN,
        money.end_user_wallet,
        WalletAnswer,
        "Show an end user's wallet",
    ),
    Endpoint(
        "GET",
        f"{_V1}/ledger/transactions",
        MANAGERS,
        money.transactions,
        Listing[TransactionAnswer],
        "List transactions of a book, newest first",
        query=BookQuery,
    ),
    Endpoint(
        "GET",
        f"{_V1}/ledger/accounts",
        MANAGERS,
        money.accounts,
        Listing[AccountAnswer],
        "List accounts of a book",
        query=BookQuery,
    ),
    # Prices
    Endpoint(
        "POST", f"{_APP}/price-books", MANAGERS, prices.add, PriceBookAnswer, "Set prices of an app", PriceBookBody, status=201
    ),
    Endpoint(
        "GET",
        f"{_APP}/price-books",
        MANAGERS,
        prices.show,
        Listing[PriceBookAnswer],
        "List prices of an app, newest first",
        query=PageQuery,
    ),
    Endpoint("GET", f"{_V1}/prices", MANAGERS, prices.listed, Listing[PriceAnswer], "List what models cost", query=PricesQuery),
    Endpoint("GET", f"{_V1}/price-lists", OPERATOR, price_lists.show, Listing[PriceListAnswer], "List the price lists"),
    Endpoint(
        "POST",
        f"{_V1}/price-lists",
        OPERATOR,
        price_lists.add,
        PriceListAnswer,
        "Take a newer price list",
        PriceListBody,
        status=201,
        body_bytes_max=PRICE_LIST_BYTES_MAX,
    ),
    Endpoint(
        "POST",
        f"{_V1}/price-lists/compare",
        OPERATOR,
        price_lists.compare,
        Listing[PriceDifference],
        "Say what a newer price list would change",
        OfferedList,
        body_bytes_max=PRICE_LIST_BYTES_MAX,
    ),
    Endpoint(
        "GET",
        f"{_V1}/price-differences",
        OPERATOR,
        price_lists.differences,
        Listing[PriceDifference],
        "Say where the configuration differs from the price list",
        query=PriceDifferencesQuery,
    ),
    # What is sold, by apps to their end users, and by the platform to creators
    Endpoint("POST", f"{_V1}/plans", MANAGERS, billing.create_plan, PlanAnswer, "Offer a plan", PlanBody, status=201, sells=True),
    Endpoint(
        "GET",
        f"{_V1}/plans",
        ANYONE_KNOWN,
        billing.list_plans,
        Listing[PlanAnswer],
        "List plans, newest first",
        query=PlansQuery,
        sells=True,
    ),
    Endpoint(
        "DELETE", f"{_V1}/plans/{{plan_id}}", MANAGERS, billing.archive_plan, PlanAnswer, "Offer a plan no more", sells=True
    ),
    Endpoint(
        "POST",
        f"{_V1}/checkout-sessions",
        ANYONE_KNOWN,
        billing.create_checkout,
        CheckoutAnswer,
        "Open a page on which to pay for a plan",
        CheckoutBody,
        status=201,
        idempotent=True,
        sells=True,
    ),
    Endpoint(
        "POST",
        f"{_V1}/portal-sessions",
        ANYONE_KNOWN,
        billing.create_portal,
        PortalAnswer,
        "Open a page with a buyer's invoices, payment method and subscription",
        PortalBody,
        status=201,
        sells=True,
    ),
    Endpoint(
        "GET",
        f"{_V1}/subscriptions",
        ANYONE_KNOWN,
        billing.list_subscriptions,
        Listing[SubscriptionAnswer],
        "List subscriptions, newest first",
        query=SalesQuery,
        sells=True,
    ),
    Endpoint(
        "PATCH",
        f"{_V1}/subscriptions/{{subscription_id}}",
        ANYONE_KNOWN,
        billing.update_subscription,
        SubscriptionAnswer,
        "Change a subscription's plan, or end it with its period",
        SubscriptionPatch,
        query=SellerQuery,
        idempotent=True,
        sells=True,
    ),
    Endpoint(
        "GET",
        f"{_V1}/purchases",
        ANYONE_KNOWN,
        billing.list_purchases,
        Listing[PurchaseAnswer],
        "List purchases of packages, newest first",
        query=SalesQuery,
        sells=True,
    ),
    *top_ups.ROWS,
    *pages.ROWS,
    Endpoint(
        "POST",
        f"{_V1}/refunds",
        MANAGERS,
        billing.create_refund,
        RefundAnswer,
        "Give back what was paid",
        RefundBody,
        status=201,
        idempotent=True,
        sells=True,
    ),
    Endpoint(
        "POST",
        f"{_V1}/billing-accounts",
        MANAGERS,
        billing.create_account,
        BillingAccountAnswer,
        "Make a creator's account at Stripe",
        AccountBody,
        status=201,
        sells=True,
    ),
    Endpoint(
        "GET",
        f"{_V1}/billing-accounts/{{user_id}}",
        MANAGERS,
        billing.get_account,
        BillingAccountAnswer,
        "Show a creator's account at Stripe",
        sells=True,
    ),
    Endpoint(
        "POST",
        f"{_V1}/billing-accounts/{{user_id}}/onboarding-links",
        MANAGERS,
        billing.create_onboarding_link,
        OnboardingAnswer,
        "Open a page with what Stripe wants of a creator",
        OnboardingBody,
        status=201,
        sells=True,
    ),
    Endpoint(
        "POST",
        f"{_V1}/fee-terms",
        OPERATOR,
        billing.create_fee_term,
        FeeTermAnswer,
        "Set the platform's share",
        FeeTermBody,
        status=201,
        sells=True,
    ),
    Endpoint(
        "GET",
        f"{_V1}/fee-terms",
        OPERATOR,
        billing.list_fee_terms,
        Listing[FeeTermAnswer],
        "List the platform's shares, the latest first",
        query=FeeTermsQuery,
        sells=True,
    ),
    Endpoint(
        "GET",
        f"{_V1}/webhooks",
        OPERATOR,
        webhooks.events,
        Listing[webhooks.WebhookAnswer],
        "List Stripe's webhooks, newest first",
        query=webhooks.WebhooksQuery,
        sells=True,
    ),
    Endpoint(
        "POST",
        f"{_V1}/webhooks/{{webhook_id}}/replay",
        OPERATOR,
        webhooks.replay,
        webhooks.WebhookAnswer,
        "Act upon a webhook once more",
        sells=True,
    ),
    # Usage
    Endpoint("GET", f"{_V1}/usage", MANAGERS, usage.totals, Listing[UsageTotalAnswer], "Add usage up", query=UsageQuery),
    Endpoint(
        "GET",
        f"{_APP}/usage-events",
        ANYONE_KNOWN,
        usage.events,
        Listing[UsageEventAnswer],
        "List requests, newest first",
        query=EventsQuery,
    ),
    # The trail
    Endpoint(
        "GET",
        f"{_V1}/audit-log",
        MANAGERS,
        trail.acts,
        Listing[ActAnswer],
        "List who did what, newest first",
        query=AuditLogQuery,
    ),
)
