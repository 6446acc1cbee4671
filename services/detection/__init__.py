"""Finds objects in frames."""
