"""Write a pipeline of ours as one Python file that does not need this package.

`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` runs the pipeline.py of a folder. That file is made
here from the package's own source, so that it cannot be out of date: every definition that the pipeline's class needs,
in the order in which Python runs the modules, with comments and docstrings. It imports torch, diffusers and what
diffusers itself requires (numpy, Pillow).
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from dsd.version import __version__

HOME = "dsd.pipeline.pipeline"
# What only training, export and loading from a base need.
LEFT_OUT = {
    "from_base", "drawn", "drawn_key", "without_lora", "lora_targets", "text_encoders", "text_width", "text_shapes",
    "width", "block_tokens", "block_inputs", "edges",
}  # fmt: skip
REPLACED = {  # definition -> the module that has another one of that name
    ("dsd.models.families", "family_named"): "dsd.pipeline.alone",
    ("dsd.pipeline.standalone", "source_of"): "dsd.pipeline.alone",
}
HEAD = '''"""{name} of Diffusion Self-Distillation: a diffusers pipeline that takes reference pictures.

Made from the source of dsd {version} (Apache-2.0), which is not needed to run it. Do not edit it: save the pipeline
again instead.
"""
'''
Key = tuple[str, str]  # module, name of a definition in it


@dataclass(frozen=True)
class Source:
    """A module of this package, parsed."""

    lines: list[str]
    defined: dict[str, ast.stmt]  # definitions at the top, by name
    imported: dict[str, Key]  # (module, "") for a whole module


def source_of(name: str) -> str:
    """Write the file of a pipeline, by the name of its class in `dsd.pipeline.pipeline`."""
    needed = needed_by((HOME, name))
    order = _order(needed)
    every = sorted(needed, key=lambda key: (order.index(key[0]), parsed(key[0]).defined[key[1]].lineno))
    imports = {alias: key for uses in needed.values() for alias, key in uses.items() if not _ours(key)}
    names = _final_names(every, set(imports))
    parts, section = [HEAD.format(name=name, version=__version__), *_import_lines(imports)], ""
    for key in every:
        if key[0] != section:
            section = key[0]
            parts.append(f"\n\n# {section}")
        spaced = "\n\n" if isinstance(parsed(key[0]).defined[key[1]], ast.FunctionDef | ast.ClassDef) else ""
        parts.append(spaced + _text(key, needed[key], names))
    return "\n".join(parts) + "\n"


def needed_by(root: Key) -> dict[Key, dict[str, Key]]:
    """List every definition that `root` needs, with what the names in it stand for."""
    found: dict[Key, dict[str, Key]] = {}
    todo = [root]
    while todo:
        key = todo.pop()
        if key not in found:
            found[key] = dict(_uses(key))
            todo += [used for used in found[key].values() if _ours(used)]
    return found


@cache
def parsed(module: str) -> Source:
    """Parse a module."""
    package, _, name = module.rpartition(".")
    folder = files(module) if (files(package) / name).is_dir() else None
    text = ((folder / "__init__.py") if folder else (files(package) / f"{name}.py")).read_text(encoding="utf-8")
    defined: dict[str, ast.stmt] = {}
    imported: dict[str, Key] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            imported |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return Source(text.splitlines(), defined, imported)


def _ours(key: Key) -> bool:
    return key[0].split(".")[0] == "dsd"


def _resolved(module: str, name: str) -> Key | None:
    """Find what a name of a module stands for; None for a local or built-in name."""
    source = parsed(module)
    if name in source.defined:
        return REPLACED.get((module, name), module), name
    if name not in source.imported:
        return None
    there, what = source.imported[name]
    if not _ours((there, what)) or _is_module(there, what):
        return there, what
    return _resolved(there, what)


def _is_module(package: str, name: str) -> bool:
    return bool(name) and (files(package.split(".")[0]).joinpath(*package.split(".")[1:], f"{name}.py")).is_file()


def _uses(key: Key) -> Iterator[tuple[str, Key]]:
    """List the names in a definition that stand for something at the top of a module, here or elsewhere."""
    for node in _walk(parsed(key[0]).defined[key[1]]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found = _resolved(key[0], node.value.id)
            if found and _ours(found) and _is_module(*found):  # memories.take
                used = _resolved(".".join(found), node.attr)
                assert used is not None
                yield f"{node.value.id}.{node.attr}", used
        elif isinstance(node, ast.Name):
            found = _resolved(key[0], node.id)
            if found and not (_ours(found) and _is_module(*found)):
                yield node.id, found


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a definition, past what is left out of it."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.ClassDef) and isinstance(child, ast.FunctionDef) and child.name in LEFT_OUT):
            yield from _walk(child)


def _order(needed: dict[Key, dict[str, Key]]) -> list[str]:
    """Order modules as Python runs them; replacements come last, since they stand in for what is imported late."""
    late = set(REPLACED.values())
    order: list[str] = []

    def visit(module: str) -> None:
        if module in order or module in late:
            return
        for key, uses in needed.items():
            if key[0] == module:
                for used in uses.values():
                    if _ours(used) and used[0] != module:
                        visit(used[0])
        if module not in order:
            order.append(module)

    visit(HOME)
    for module, _ in needed:
        visit(module)
    return [*order, *sorted(late)]


def _final_names(every: list[Key], taken: set[str]) -> dict[Key, str]:
    """Name the definitions in the one file; of two with the same name, the later one's module is added to its name."""
    names: dict[Key, str] = {}
    for module, name in every:
        final = name if name not in taken else f"{name}_{module.rsplit('.', 1)[-1]}"
        if final in taken or (final != name and not isinstance(parsed(module).defined[name], ast.Assign)):
            raise ValueError(f"{module}.{name}: another module has this name, too; give one of them another name")
        taken.add(final)
        names[module, name] = final
    return names


def _import_lines(imports: dict[str, Key]) -> list[str]:
    """Write the imports of other packages."""
    whole = [f"import {module}" + (f" as {alias}" if alias != module else "")
             for alias, (module, name) in imports.items() if not name]  # fmt: skip
    parts: dict[str, list[str]] = {}
    for alias, (module, name) in sorted(imports.items()):
        if name:
            parts.setdefault(module, []).append(name if alias == name else f"{name} as {alias}")
    return [*sorted(whole), *(f"from {module} import {', '.join(parts[module])}" for module in sorted(parts))]


def _text(key: Key, uses: dict[str, Key], names: dict[Key, str]) -> str:
    """Copy a definition with the comment above it, under its final names and without what is left out."""
    source = parsed(key[0])
    node = source.defined[key[1]]
    lines = [line.encode() for line in source.lines]
    renamed = {alias: names[used] for alias, used in uses.items() if _ours(used) and names[used] != alias}
    renamed |= {key[1]: names[key]} if names[key] != key[1] else {}
    spots = sorted(_spots(node, renamed), key=lambda spot: (spot[0].lineno, spot[0].col_offset), reverse=True)
    for spot, new in spots:
        line, end = spot.lineno - 1, spot.end_col_offset
        lines[line] = lines[line][: spot.col_offset] + new.encode() + lines[line][end:]
    first, last = _span(node)
    while first > 1 and lines[first - 2].startswith(b"#"):
        first -= 1
    gone = {
        number
        for child in ast.iter_child_nodes(node)
        if isinstance(node, ast.ClassDef) and isinstance(child, ast.FunctionDef) and child.name in LEFT_OUT
        for number in range(_span(child)[0], _span(child)[1] + 2)  # and the empty line below it
    }
    kept = [lines[number - 1].decode() for number in range(first, last + 1) if number not in gone]
    return "\n".join(kept).rstrip()


def _span(node: ast.stmt) -> tuple[int, int]:
    """Give the first and the last line of a definition, its decorators included."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(d.lineno for d in decorators)]), node.end_lineno or node.lineno


def _spots(node: ast.stmt, renamed: dict[str, str]) -> Iterator[tuple[ast.expr, str]]:
    """Find where a definition says a name that changes. ValueError where the name is also a local one."""
    for child in _walk(node):
        if isinstance(child, ast.arg) and child.arg in renamed:
            raise ValueError(f"line {child.lineno}: the argument {child.arg} hides a name of the module")
        if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name):
            if (name := f"{child.value.id}.{child.attr}") in renamed:
                yield child, renamed[name]
        elif isinstance(child, ast.Name) and child.id in renamed:
            if isinstance(child.ctx, ast.Store) and not isinstance(node, ast.Assign):
                raise ValueError(f"line {child.lineno}: the variable {child.id} hides a name of the module")
            yield child, renamed[child.id]
