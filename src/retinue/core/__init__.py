"""Pure values and decisions: no clock, disk, network, randomness or logging."""
