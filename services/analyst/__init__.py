"""The analyst: what was said, by a language model; scores; the report."""
