"""A user's own traces: memory by sampling, requests by access log or proxy."""
