"""Fetches videos and takes the sound out of them."""
