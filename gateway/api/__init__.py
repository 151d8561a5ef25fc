"""Management REST under `/api/v1`: JSON in, JSON out, every route with its roles, described at `/api/openapi.json`.

Owns the route table, who may call what, the shapes of bodies and answers, and paging. Does not own any
rule of identity, money or prices: handlers ask the rooms below.
"""
