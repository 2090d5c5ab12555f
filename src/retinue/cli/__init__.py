"""Commands and words."""
