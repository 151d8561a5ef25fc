"""What Stripe's own page asks its API for, as far as Stripe's command line tool asks it too, where it triggers a paid checkout.

`GET /v1/payment_pages/SESSION`, then `POST .../confirm` with a payment method and the amount that was shown. Both are no part of
Stripe's OpenAPI description, so nothing here is held against it.
"""

from .checkout import pay
from .errors import StripeFault, bad
from .spec import Obj
from .world import Account, World

PREFIX = "/v1/payment_pages/"


def act(world: World, account: Account, method: str, path: str, params: Obj) -> Obj:
    name, _, verb = path.removeprefix(PREFIX).partition("/")
    session = account.get("checkout.session", name)
    shown = {"id": f"ppage_1{name[-12:]}", "object": "checkout.session", "session_id": name, "status": session["status"]}
    if (method, verb) == ("GET", ""):
        return {**shown, "total_summary": {"due": _due(account, session)}}
    if (method, verb) != ("POST", "confirm"):
        raise StripeFault(404, f"Unrecognized request URL ({method}: {path}).", kept=False)
    if params.get("expected_amount") != str(_due(account, session)):
        raise bad(f"The amount is {_due(account, session)}, not {params.get('expected_amount')}.", "expected_amount")
    card = account.get("payment_method", str(params.get("payment_method")), "payment_method")
    done = pay(world, account, session, card["id"], email=card["billing_details"]["email"] or "")
    if done["refused"] is not None:
        error = done["refused"]
        raise StripeFault(402, error["message"], error.get("code", ""), decline_code=error.get("decline_code"))
    return {**shown, "status": session["status"]}


def _due(account: Account, session: Obj) -> int:
    """A trial costs nothing yet."""
    data = account.hidden[session["id"]]["params"].get("subscription_data") or {}
    return 0 if data.get("trial_period_days") or session["mode"] == "setup" else int(session["amount_total"])
