"""``python -m kety``: the command line."""

from kety.cli.main import main

if __name__ == "__main__":
    main(prog_name="kety")
