"""Hands every stored frame to the models that are to see it."""
