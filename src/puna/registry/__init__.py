"""Where models come from over the network; each source has its module."""
