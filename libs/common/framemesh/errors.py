"""Errors that a user can mend."""


class FramemeshError(Exception):
    """One clear line that names the thing and the fix. The CLI and the services print it without a stack."""
