"""The gateway: the HTTP API of analyses and jobs."""
