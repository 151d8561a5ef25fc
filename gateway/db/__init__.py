"""Databases: the platform's, and one of its own for each app. Engines, schema, migrations.

Owns tables' shapes and the way to a connection. Does not own queries: each room's `store.py` or
`queries.py` writes its own. No end user's id has a column in the platform's tables.
"""
