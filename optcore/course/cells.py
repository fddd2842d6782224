"""What counts of a notebook: the statements that a name depends on, and no others.

An answer is found by its name, wherever it stands. Imports, definitions and module-level
assignments that it needs are run; cells that train, draw or check are not, nor is a call on a line
of its own. So neither metadata nor the order of the cells matters, and a broken cell costs only
what depends on it.

The sandbox loads this file by itself, as it does `probes`.
"""

import __future__

import ast
import json
import linecache
import symtable


def read_cells(path):
    """The sources of the code cells of a notebook, of which nothing else is looked at.

    LookupError, with a sentence, where the file is no notebook.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:  # some editors write a mark first
            cells = json.load(file)["cells"]
        sources = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
        return ["".join(source) for source in sources]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LookupError("The file is no notebook, or a damaged one.") from error


def define(sources, name):
    """Run what `name` depends on and return its value; LookupError, with a sentence, without one.

    Where several statements bind a name the last one counts.
    """
    needed, chosen, complaints, candidates = {name}, set(), [], []
    for number, source in enumerate(sources, 1):
        try:
            candidates += _statements(f"<cell {number}>", source)
        except Exception as error:  # SyntaxError, or what too deep or binary a text leads to
            complaints.append(error)
    while more := {c for c in candidates if c not in chosen and (c.binds & needed or c.star)}:
        chosen |= more
        needed = needed.union(*(c.uses for c in more))
    waiting = [c for c in candidates if c in chosen]
    namespace = {"__name__": "__main__"}
    while waiting:  # what comes too early, in cells that were moved, is tried again
        failed = []
        for statement in waiting:
            try:
                exec(statement.code, namespace)
            except NameError as error:
                failed.append((statement, error))
            except Exception as error:
                complaints.append(error)
        if len(failed) == len(waiting):
            complaints += [error for _, error in failed]
            break
        waiting = [statement for statement, _ in failed]
    if name in namespace:
        return namespace[name]
    why = [f" {type(error).__name__}: {error}." for error in complaints[:1]]
    raise LookupError("".join([f"The notebook defines no `{name}`.", *why]))


class _Statement:
    """A statement of a cell: its code, the names that it binds and those that it reads."""

    def __init__(self, node, file):
        table = symtable.symtable(ast.unparse(node), file, "exec")
        symbols = table.get_symbols()
        self.binds = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            # `torch.allclose = …` and `rates[0] = …` change what a name stands for.
            changed = (n for n in ast.walk(node) if isinstance(n, ast.Attribute | ast.Subscript))
            self.binds |= {_base(n) for n in changed if isinstance(n.ctx, ast.Store)}
        self.uses = _globals(table)
        self.star = isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
        module = ast.Module([node], type_ignores=[])
        flags = __future__.annotations.compiler_flag
        self.code = compile(module, file, "exec", flags, dont_inherit=True)


def _statements(file, source):
    try:
        nodes = ast.parse(source, file).body
    except SyntaxError:  # perhaps for a magic, `%time` or `!pip`
        lines = source.splitlines(keepends=True)
        source = "".join("pass\n" if x.startswith(("%", "!")) else x for x in lines)
        nodes = ast.parse(source, file).body
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    return [_Statement(node, file) for node in nodes]


def _globals(table):
    """The names of the module that a statement reads, in whatever function of it."""
    names = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return names.union(*(_globals(child) for child in table.get_children()))


def _base(node):
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return getattr(node, "id", "")
