"""Other servers of models: each with locked requirements, an environment of its own, and the program that serves."""
