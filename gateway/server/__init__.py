"""The HTTP server of the web process: uvicorn, with bounds on what a peer may do and answers made in one piece."""
