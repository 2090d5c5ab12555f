"""What runs inside a model's environment: standard library only, the rest imported late."""
