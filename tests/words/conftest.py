from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import edge_agent

ROOT = Path(edge_agent.__file__).parent.parent
ROOMS = ("edge_agent", "adapters", "landing")


def _files() -> Iterator[tuple[str, ast.Module]]:
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            yield str(file.relative_to(ROOT)), ast.parse(file.read_text(encoding="utf-8"))


def _sentences() -> dict[str, str]:
    """Sentence -> where, of every t("...") and Why("...") in the project."""
    found: dict[str, str] = {}
    for name, tree in _files():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("t", "Why") and node.args:
                for text in ast.walk(node.args[0]):
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        found.setdefault(text.value, f"{name}:{node.lineno}")
    return found


def _codes() -> dict[str, str]:
    """Error code -> where, of every code="...", default_code = "..." and "CFG_..." in the project."""
    found: dict[str, str] = {}
    for name, tree in _files():
        for node in ast.walk(tree):
            values: list[ast.expr] = []
            if isinstance(node, ast.keyword) and node.arg == "code":
                values.append(node.value)
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(target, ast.Name) and target.id == "default_code" for target in targets):
                    values.append(node.value)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("CFG_"):
                values.append(node)
            for value in values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value:
                    found.setdefault(value.value, f"{name}:{value.lineno}")
    return found


@pytest.fixture(name="all_sentences")
def _all_sentences() -> Callable[[], dict[str, str]]:
    return _sentences


@pytest.fixture(name="all_codes")
def _all_codes() -> Callable[[], dict[str, str]]:
    return _codes
