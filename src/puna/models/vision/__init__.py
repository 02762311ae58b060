"""Image encoders, one file for each kind; a decoder's own file says which it looks through."""
