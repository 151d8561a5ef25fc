"""Stripe as it is asked: the adapter of `ports.Payments`. Only `client` and `faults` know the SDK, the rest its shapes."""
