"""SQL is made once, at import, of what stands in the code: nothing that a caller sent can get into it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import aiworkspace_server

ROOT = Path(aiworkspace_server.__file__).parent
_TAKES_SQL = {"text", "exec_driver_sql", "literal_column"}
_SPELLED = {
    "kit/postgres.py: _BEGIN.format(**session.info)",  # of UUIDs that were spelled by their numbers
    # of an organization's id that was spelled by its number, and of numbers
    "search/vector_query.py: _INDEXED.format(org=org, generation=generation.id, dimension=generation.dimension)",
    # of a migration's author, who names the table and writes the statement
    *(f"row_batches.py: f'ALTER TABLE {{table}} {force} ROW LEVEL SECURITY'" for force in ("FORCE", "NO FORCE")),
    "row_batches.py: statement",
    "erasure/store.py: f'DELETE FROM {table} WHERE ctid = ANY (ARRAY({some}))'",  # at import, of names in its module
}


def made_in_functions(source: str) -> Iterator[str]:
    """What functions hand over as SQL and is no constant: a literal, or a name in capitals."""
    functions = (
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    for call in (node for function in functions for node in ast.walk(function) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name in _TAKES_SQL and call.args and not _is_constant(call.args[0]):
            yield ast.unparse(call.args[0])


def _is_constant(argument: ast.expr) -> bool:
    return isinstance(argument, ast.Constant) or (isinstance(argument, ast.Name) and argument.id.isupper())


def test_no_function_makes_sql() -> None:
    sources = [path.relative_to(ROOT) for path in ROOT.rglob("*.py")]
    speaking = [
        path for path in sources if path.parts[0] != "parsing"
    ]  # its texts are of files, and it has no database
    found = {f"{path}: {sql}" for path in speaking for sql in made_in_functions((ROOT / path).read_text())}
    assert found == _SPELLED


def test_sql_that_a_function_makes_is_found() -> None:
    sources = ('f"SELECT {name}"', '"SELECT " + name', '"SELECT %s" % name', "name", '"SELECT {}".format(name)')
    for sql in sources:
        assert list(made_in_functions(f"async def find(name):\n    await tx.execute(text({sql}))")), sql
    assert not list(made_in_functions('async def find(tx):\n    await tx.execute(text("SELECT 1"))'))
