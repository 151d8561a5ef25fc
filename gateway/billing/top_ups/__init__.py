"""Automatic top-ups: the rules that payers set, and charging by them when a wallet runs low."""
