"""From a declaration to a version that may be trusted."""
