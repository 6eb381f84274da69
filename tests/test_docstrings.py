"""A docstring begins with the returned thing or a verb, and its sentences do not begin with a relative clause."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = re.compile(r"(What|Of|Where|As|Whether|Which|How|Why)\b")


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, docstring) of a module, its public classes and functions, and the fields and constants of both."""
    todo: list[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef] = [tree]
    while todo:
        body = todo.pop().body
        todo += [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                 and (not node.name.startswith("_") or node.name.startswith("__"))]  # fmt: skip
        for node in body:
            match node:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield node.lineno, text


@pytest.mark.parametrize("package", ["configs", "data_shards", "models", "pretrain"])
def test_no_docstring_begins_with_a_relative_clause(package: str) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}: {text.strip().splitlines()[0]}"
        for file in sorted((ROOT / package).rglob("*.py"))
        for line, text in docstrings(ast.parse(file.read_text()))
        if FORBIDDEN.match(text.strip())
    ]
    assert not found, f"{len(found)} begin with What, Of, Where, As, Whether, Which, How or Why:\n" + "\n".join(found)
