"""The conversation on a terminal that `puna run` opens where no prompt is given."""
