"""Keeps jobs in the results database, and in order: off the hot path; of its replicas one is at work."""
