"""The fast path: doors, routing, batching, running models."""
