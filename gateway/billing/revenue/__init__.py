"""Revenue: what Stripe charged and paid out, month by month, and each creator's statements."""
