"""Money from outside: plans, payments, subscriptions, refunds and disputes through Stripe, at both levels.

End users buy from an app's creator, on the creator's own connected account (direct charges), and the platform's share is
the application fee of each payment. Creators buy from the platform, on its own account. What is bought is posted to the
books (`ledger`) and credited (`balance.wallets`); this room keeps no balance.

A word for both levels is the *seller*: an app (`enterprise_id`), whose sales stand in the app's own database, or the
platform (None), whose sales stand in the platform's. The platform's database holds no end user: a webhook is kept there as
the id of what it is about, never with what Stripe wrote of it, and is acted upon as Stripe has it when it is handled.

Every effect is known by the business fact behind it (a payment, an invoice's line, a refund, a state of a dispute), so it
happens once, however often and in whatever order Stripe tells of it, or when nobody told and the reconciler finds it.

Rooms in it: `stripe` (how Stripe is asked), `webhooks` (what it tells), `top_ups` (buying by itself), `revenue` (months and
statements). The rules of selling, buying, taking back and ending stand beside them.
"""
