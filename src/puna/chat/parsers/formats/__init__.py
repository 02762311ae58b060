"""One module for each way of writing calls; none imports another."""
