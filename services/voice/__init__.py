"""Measures how somebody speaks: pitch, loudness, rate, pauses, and how steady the voice is."""
