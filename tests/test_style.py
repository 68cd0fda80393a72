"""What holds for the tests themselves: nothing private is touched, no constant is changed, and each helper is once.

What a test has to shorten is a parameter of the class or the function concerned, or a field of an object that it gets.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent
PRODUCT = ("aiworkspace_server", "aiworkspace_client")
OF_NAMED_TUPLES = {"_replace", "_make", "_asdict", "_fields"}

# Private attributes of libraries, which say in no other way what they do. Nothing of the product is to stand here.
LEFT = {
    "kit/test_limits.py": {"_file_descriptor_response"},
    "support/loop_time.py": {"_run"},
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def touched(tree: ast.Module) -> set[str]:
    """Names of what is private and read, imported or replaced, and of constants that are replaced."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not _is_own(node.value):
            found |= {node.attr} if is_private(node.attr) else set()
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PRODUCT):
            found |= {alias.name for alias in node.names if is_private(alias.name)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            name = replaced(node)
            found |= {name} if is_private(name) or name.isupper() else set()
    return found - OF_NAMED_TUPLES


def _is_own(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def replaced(call: ast.Call) -> str:
    """The name that a call of monkeypatch.setattr replaces, as far as it stands there."""
    first, second, *_ = call.args
    name = first if isinstance(first, ast.Constant) else second  # of a path, or of an object and a name
    if isinstance(name, ast.JoinedStr):
        name = name.values[0]
    return str(name.value).rpartition(".")[2] if isinstance(name, ast.Constant) else ""


def test_no_test_touches_what_is_private_or_changes_a_constant() -> None:
    found = {name: names for name, tree in modules() if (names := touched(tree))}
    assert found == LEFT


def body_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """What the function does, whatever it calls its arguments and variables, which are renamed in the tree.

    Empty for a single call of another function.
    """
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not statements or (len(statements) == 1 and _passes_on(statements[0])):
        return ""
    bound = {each.arg for each in ast.walk(function.args) if isinstance(each, ast.arg)}
    bound |= {each.id for each in ast.walk(function) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    order: dict[str, str] = {}
    for node in (node for statement in statements for node in ast.walk(statement)):
        if isinstance(node, ast.Name) and node.id in bound:
            node.id = order.setdefault(node.id, f"v{len(order)}")
        elif isinstance(node, ast.arg):
            node.arg = order.setdefault(node.arg, f"v{len(order)}")
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return "\n".join(map(ast.dump, statements))


def _passes_on(statement: ast.stmt) -> bool:
    """Whether it returns what another function returns of the same values, or says how something looks."""
    value = statement.value if isinstance(statement, ast.Return | ast.Expr) else None
    value = value.value if isinstance(value, ast.Await) else value
    if not isinstance(value, ast.Call):
        return not isinstance(statement, ast.Return) or isinstance(
            value, ast.Constant | ast.Name | ast.Attribute | ast.Subscript
        )
    return isinstance(value.func, ast.Name) and all(isinstance(each, ast.Name | ast.Attribute) for each in value.args)


def test_no_two_helpers_do_the_same() -> None:
    """The same body under two names is one helper in tests/support."""
    found = defaultdict(list)
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith(("test_", "__")):
                found[body_of(node)].append(f"{name}:{node.lineno} {node.name}")
    del found[""]
    assert [where for where in found.values() if len(where) > 1] == []


def test_no_test_file_is_imported() -> None:
    """What two of them need lies in tests/support, or in a module of their folder."""
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert "test_" not in (node.module or ""), f"{name} imports {node.module}"


def _asserts(function: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Assert)
        or (isinstance(node, ast.Attribute) and node.attr in ("raises", "fail"))
        or (isinstance(node, ast.Name) and node.id == "raises")
        for node in ast.walk(function)
    )


def test_every_test_asserts_where_its_reader_sees_it() -> None:
    """Helpers may assert as well; what a test is about stands in the test."""
    silent = [
        f"{name}:{node.lineno} {node.name}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not _asserts(node)
    ]
    assert silent == []


def test_what_make_security_lists_exists() -> None:
    """A test that is renamed or moved is found here, and not by whoever runs the whole list next."""
    defined = {
        name: {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        for name, tree in modules()
    }
    listed = {
        node.value.partition("[")[0].partition("::")
        for name, tree in modules()
        if name in ("security/classes.py", "security/invariants.py")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ".py" in node.value.partition("::")[0]
    }
    assert len(listed) > 100
    missing = [(file, test) for file, _, test in listed if file not in defined or (test and test not in defined[file])]
    assert missing == []
