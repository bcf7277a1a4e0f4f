#!/usr/bin/env bash
# Formats, lints, type-checks and tests everything. `./check.sh --ci` changes no file.
set -euo pipefail
cd "$(dirname "$0")"
if [ "${1:-}" = "--ci" ]; then
  ruff format --check .
  ruff check .
  clang-format --dry-run -Werror src/native/*.[ch]pp
else
  ruff format .
  ruff check --fix .
  clang-format -i src/native/*.[ch]pp
fi
lint-imports
# One process checks the types beside the two that test: the tests are many and small. Files in the
# order of their names: by their number of tests, as pytest-xdist has it, a slow one comes last.
mypy &
types=$!
failed=0
pytest -n 2 --dist loadfile --no-loadscope-reorder || failed=$?
wait "$types" || failed=$?
exit "$failed"
