"""The command line as the tests call it."""

from __future__ import annotations

from click.testing import CliRunner, Result

from kety.cli.main import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def good(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result
