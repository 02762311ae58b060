"""Which models are in memory, for which requests, and for how long."""
