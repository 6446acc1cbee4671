"""Models that need no code: a short YAML says what a model takes and how its outputs are read."""
