"""The command line: one file for each command, listed in `kety.cli.main`."""
