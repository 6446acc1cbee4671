"""Names what a frame, or a part of it, shows."""
