"""Where gateways and workers run."""
