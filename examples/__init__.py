"""Workers of your own: one in Python, and models that need only a YAML."""
