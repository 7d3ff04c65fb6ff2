"""The verbs of the command line: one module per command, each with its Settings and its run function."""
