"""Entry points of long-running processes: the supervisor of a served stage."""
