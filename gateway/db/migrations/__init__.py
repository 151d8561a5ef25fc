"""Schema history, one tree for the platform database and one for app databases. Revisions are never edited once released."""
