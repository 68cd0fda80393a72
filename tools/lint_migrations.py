"""Checks migrations of PostgreSQL that are new: what squawk says of their SQL, and that each declares compatibility.

Migrations up to BASELINE have landed before this check and are never edited.
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory

from aiworkspace_server.migrate import alembic_config

BASELINE = "0023"
SETTINGS = Path(__file__).with_name("squawk.toml")


def main() -> None:
    config = alembic_config()
    scripts = [*ScriptDirectory.from_config(config).walk_revisions(BASELINE, "head")][-2::-1]
    problems = [
        f"{script.path}: declares no compatible_with: see CONTRIBUTING.md"
        for script in scripts
        if not hasattr(script.module, "compatible_with")
    ]
    before = BASELINE
    for script in scripts:
        problems += lint(Path(script.path), rendered(before, script.revision))
        before = script.revision
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(bool(problems))


def rendered(begin: str, end: str) -> str:
    """Return the SQL of the migrations after one revision and up to another."""
    config = alembic_config()
    config.output_buffer = output = io.StringIO()
    command.upgrade(config, f"{begin}:{end}", sql=True)
    return output.getvalue()


def lint(migration: Path, sql: str) -> list[str]:
    """Return what squawk says of the SQL of a migration."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, f"{migration.stem}.sql")
        file.write_text(sql, encoding="utf-8")
        squawk = [str(Path(sys.executable).with_name("squawk")), "--config", str(SETTINGS), str(file)]
        ran = subprocess.run(squawk, capture_output=True, text=True, check=False)
    return [f"{migration}: the SQL that it runs breaks a rule\n{ran.stdout}{ran.stderr}"] if ran.returncode else []


if __name__ == "__main__":
    main()
