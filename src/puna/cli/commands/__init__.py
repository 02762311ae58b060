"""The commands, one module each, named in the table of `puna.cli.main`."""
