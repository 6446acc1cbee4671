"""Framemesh: what every service of the mesh shares."""

__version__ = "0.1.0"
