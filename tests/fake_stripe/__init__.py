"""A stateful fake of Stripe's HTTP surface, for tests. It is not Stripe: it proves flow and shape, not what Stripe will do.

    python -m tests.fake_stripe --port 0            prints "port N" and serves until it is stopped (see `control.running`)

Faithful to Stripe (as its SDK 16, API 2026-10-28.endive, and its OpenAPI description tell it) in
- shapes: every request is held against the description (unknown, missing, wrongly typed parameters and wrong enums are refused as
  Stripe refuses them, and kept in `Control.violations`); every answer and event of the fake is held against it too
  (`Control.shape_faults`, which the fake's own tests keep empty);
- accounts: `Stripe-Account` decides which objects exist; a revoked account answers 403; v2 answers null without `include`;
- money: balance transactions with Stripe's fee and the application fee, the platform's own fee objects, refunds with and
  without the fee, disputes that take money at once, payouts; `Control.audit` proves that it all adds up;
- state: intents, checkout, subscriptions (trials, renewals an hour as drafts, retries, pauses, proration), invoices with credit,
  of no subscription, with several payments, paid out of band, too little to charge;
- time: test clocks with their rules, though all of them are one; the calls of Stripe's own page that its command line tool makes;
- transport: idempotency keys for 24 h, cursors, `expand[]`, errors, signed webhooks in any order, number and concurrency, faults.

Simplified: of an invoice that is paid in part the platform's share is of what its default payment is left with; an invoice that
is sent never falls due; one price list for Stripe's fee (2.9 % and a fixed part, also where Stripe has another); no taxes,
minimum amounts but of invoices, multi-currency settlement, captures by hand, quotes, schedules, tiers, meters, credit notes; v2
event destinations send nothing (account changes come as v1 account.updated); Stripe's retries of webhooks are the test's to ask
for; a parameter that Stripe's description has and the fake does not play is accepted without effect; an operation it does not
play answers 501. The description is of 2026-05-27.dahlia: parameters younger than that count as unknown.
"""
