"""Wrong keys and choices, told before anything is installed: `python3 -m configs.checks.before_install COMMAND ...`.

run.sh asks while there is no environment yet. Standard library only: the schema is read as text, not imported. Values
are checked later, by the schema itself.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from configs.checks.nearest import unknown_choice, unknown_key

FOLDER = Path(__file__).resolve().parents[1]
_COMMAND = re.compile(r"`\./run\.sh ([a-z ]+)`")


def _classes() -> dict[str, ast.ClassDef]:
    """The classes of the schema, by name."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("schema*.py"))]
    return {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def keys_of(command: str) -> list[str] | None:
    """Return the dotted keys of a command (`pretrain`, `shards build`, ...); None for a command without a schema."""
    classes = _classes()
    for node in classes.values():
        found = _COMMAND.match(ast.get_docstring(node) or "")
        if found and found[1] == command:
            return _leaves(node, classes)
    return None


def _leaves(node: ast.ClassDef, classes: dict[str, ast.ClassDef], prefix: str = "") -> list[str]:
    """The dotted keys below a class, by alias."""
    found = [
        key
        for base in map(ast.unparse, node.bases)
        if base in classes
        for key in _leaves(classes[base], classes, prefix)
    ]
    for field in node.body:
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        kind = ast.unparse(field.annotation)
        alias = re.search(r"alias='(\w+)'", kind)
        name = prefix + (alias[1] if alias else field.target.id)
        if kind in classes:
            found += _leaves(classes[kind], classes, f"{name}.")
        elif not kind.startswith("ClassVar"):
            found.append(name)
    return found


def groups() -> dict[str, list[str]]:
    """Return the choices of every group of `pretrain` and `config`."""
    folders = [folder for folder in sorted(FOLDER.iterdir()) if any(folder.glob("*.yaml"))]
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def check(command: str, arguments: list[str]) -> None:
    """Raise ValueError for the first key or choice that does not exist."""
    keys, choices = keys_of(command), groups() if command in ("pretrain", "config") else {}
    for key, _, value in (argument.partition("=") for argument in arguments):
        if keys is None or key in ("-h", "--help"):
            continue
        if key in choices:
            names = value.strip("[]'\"").split(",")
            if wrong := [name for name in names if name.strip() not in choices[key]]:
                raise unknown_choice(key, wrong[0], choices[key])
        elif key not in keys and not any(known.startswith(f"{key}.") for known in keys):
            raise unknown_key(key, [*keys, *choices])


def main(arguments: list[str]) -> None:
    """Exit with 2 and a line if a key or a choice does not exist."""
    words = 2 if arguments[0] == "shards" else 1
    try:
        check(" ".join(arguments[:words]), arguments[words:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
