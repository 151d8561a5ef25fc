"""Who is calling: creators, apps, API keys, management keys, end users and their signed tokens.

Owns what a credential may do and for whom it pays. Does not own HTTP, money or prices.
"""
