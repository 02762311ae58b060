"""The command line. Importing it imports no command, and commands import what they need when they run."""
