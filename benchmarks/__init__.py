"""Side-by-side measurements. Nothing here decides a test."""
