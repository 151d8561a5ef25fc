"""Answers kept to be given again to the very same request: where they lie, and how much room they may take.

Whether a request may have one, and what it pays for it, is decided above (`proxy/again.py`).
"""
