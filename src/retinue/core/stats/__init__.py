"""Statistics behind gates: intervals, paired tests, metrics."""
