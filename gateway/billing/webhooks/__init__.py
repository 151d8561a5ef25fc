"""What Stripe tells: received, kept once, acted upon later, listed and replayed."""
