"""What Puna does for a caller, whatever way the caller speaks to it."""
