"""What a browser does with it."""
