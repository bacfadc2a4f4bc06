"""Decides which functions, types and keys a file defines, and whether an edit has lost or doubled one of them.

What defines something is told by the file's grammar where there is one, and by each line alone elsewhere.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct
from tree_sitter import Language, Node, Query, QueryCursor, Tree

from reflexd.engine.apply.alignment import Piece
from reflexd.engine.apply.original import WORD, Original
from reflexd.engine.apply.snippet import Snippet, indent, name_of

DEFINING = [
    "function_definition",
    "class_definition",
    "function_declaration",
    "generator_function_declaration",
    "class_declaration",
    "abstract_class_declaration",
    "method_definition",
    "variable_declarator",
    "interface_declaration",
    "type_alias_declaration",
    "enum_declaration",
    "method_declaration",
    "type_spec",
    "function_item",
    "struct_item",
    "enum_item",
    "union_item",
    "trait_item",
    "mod_item",
    "type_item",
    "const_item",
    "static_item",
    "macro_definition",
    "constructor_declaration",
    "record_declaration",
    "property_declaration",
    "struct_declaration",
    "class_specifier",
    "type_definition",
    "method",
    "singleton_method",
    "trait_declaration",
    "pair",
    "block_mapping_pair",
    "const_element",
    "local_function_statement",
]
"""The grammars' words for it."""
AROUND = {
    "decorated_definition",
    "export_statement",
    "lexical_declaration",
    "variable_declaration",
    "local_variable_declaration",
    "field_declaration",
    "type_declaration",
}
"""What stands between a definition and the block that it is in."""
KEYS = {"pair", "block_mapping_pair", "variable_declarator", "const_element"}
OVERLOADED = {"java", "c", "cpp", "csharp", "typescript", "tsx"}
"""Languages with several functions of one name: there it is the whole header that must not stand there twice."""
ONCE = {"javascript", "typescript", "tsx"}
"""Languages in which no two things of a block have one name, but for headers without a body."""
MANY_TIMES = re.compile(r"@[\w.]*(?:overload|setter|getter|deleter|register|cfg)\b|#\[cfg")
NO_NAMES = {"_", "init"}
"""A file may define these many times."""
CALLED = re.compile(r"([\w~$]+)\s*(?:<[^()]*>)?\s*\(")

MOST_HEADER = 400
"""Characters of a header in which its name is looked for."""


class Definition(Struct, frozen=True):
    """On which line of a file it begins, from 0; the block it is in; what must be there once; and its name.

    `key`: it is a key or a variable, whose name may mean something else elsewhere.
    """

    line: int
    block: int
    header: str
    name: str
    key: bool = False


def definitions(text: str, language: str, tree: Tree | None) -> list[Definition]:
    """Return all definitions of a file, in their order; `tree` is None where no grammar understands it."""
    lines = text.split("\n")
    if tree is None:
        return _by_line(lines)
    query = _query(language, tree.language)
    if query is None:
        return []
    source = text.encode("utf-8", "surrogatepass")
    blocks: dict[int, Node] = {}
    found: list[Node] = []
    # A node's own way to its parent and neighbours is as long as the file.
    for _, match in QueryCursor(query).matches(tree.root_node):
        node = match["definition"][0]
        blocks[node.id] = match["block"][0]
        if node.type not in AROUND:
            found.append(node)
    found.sort(key=lambda node: node.start_byte)
    out = [_read(node, blocks, source, lines, language) for node in found]
    return [one for one in out if one is not None]


@functools.cache
def _query(name: str, language: Language) -> Query | None:
    known = [f"({kind})" for kind in (*DEFINING, *sorted(AROUND)) if language.id_for_node_kind(kind, True) is not None]
    return Query(language, f"(_ [{' '.join(known)}] @definition) @block") if name and known else None


def _read(node: Node, blocks: dict[int, Node], source: bytes, lines: list[str], language: str) -> Definition | None:
    name, body = node.child_by_field_name("name") or node.child_by_field_name("key"), node.child_by_field_name("body")
    first = node.start_point[0]
    end = name.end_byte if name else source.find(b"\n", node.start_byte) % (len(source) + 1)
    if body is not None and (name is None or language in OVERLOADED):
        end = body.start_byte
    header = " ".join(source[node.start_byte : end].decode("utf-8", "replace").split())
    if name is not None and language in ONCE and (body is not None or node.type == "variable_declarator"):
        # However it is written: a function and a constant of one name are one too many.
        header = " ".join([*sorted({"static", "get", "set"} & set(header.split()[:-1])), source_of(name, source)])
    block = blocks[node.id]
    while block.type in AROUND and block.id in blocks:
        block = blocks[block.id]
    above = first - 1
    while above >= 0 and lines[above].lstrip().startswith(("@", "#[")):
        if MANY_TIMES.search(lines[above]):
            return None
        above -= 1
    called = source_of(name, source) if name else ""
    if not called:
        match = CALLED.search(header[:MOST_HEADER])
        called = match[1] if match else header
    return None if called in NO_NAMES else Definition(first, block.id, header, called, node.type in KEYS)


def source_of(node: Node, source: bytes) -> str:
    """Return a node's text."""
    return source[node.start_byte : node.end_byte].decode("utf-8", "replace")


def _by_line(lines: Sequence[str]) -> list[Definition]:
    out: list[Definition] = []
    above: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        if (depth := indent(line)) < 0:
            continue
        while above and above[-1][0] >= depth:
            above.pop()
        name = name_of(line)
        if name and not name.startswith("= "):
            out.append(Definition(number, above[-1][1] if above else -1, line.strip(), name))
        above.append((depth, number))
    return out


def doubled(found: Sequence[Definition]) -> dict[str, str]:
    """Return the headers that stand more than once in one block of a file, and the names that they define."""
    counts = Counter((one.block, one.header) for one in found)
    return {one.header: one.name for one in found if counts[one.block, one.header] > 1}


def lost(found: Sequence[Definition], pieces: Sequence[Piece], edit: Snippet, file: Original) -> Definition | None:
    """Return a definition that is deleted though nothing shows that this is meant.

    That is shown by lines of the file that say something, right beside what is deleted or what replaces it on both
    sides, if the edit does not name what would be gone; and by an edit that names it, and so has it elsewhere or anew.
    """
    lines = [one.line for one in found]
    counts = Counter(one.name for one in found)
    shown = "\n".join(edit.lines)
    defined = {name_of(line).split(" ")[-1] for line in edit.lines} - {""}
    for start, end, left, right in _gaps(pieces, file):
        for one in found[bisect_left(lines, start) : bisect_left(lines, end)]:
            name = one.name.removeprefix("= ").split(" ")[-1]
            named = is_named(one.name, shown)
            if not (left and right):
                if not named:
                    return one
            elif named and not one.key and counts[one.name] == 1 and name not in defined and not _begins(name, edit):
                return one
    return None


def is_named(name: str, text: str) -> bool:
    """Whether a text has what a definition is called as a word."""
    return re.search(rf"\b{re.escape(name.split(' ')[-1])}\b", text) is not None


def _begins(name: str, edit: Snippet) -> bool:
    """Whether a line of the edit may begin the definition of a name in a way that no grammar was asked for."""
    head = re.compile(rf"^[^=.;]*(?<![\w.]){re.escape(name)}\s*(?:<[^()]*>)?\(.*[{{:,(]\s*$")
    return any(name in line and head.match(line) for line in edit.lines)


def _gaps(pieces: Sequence[Piece], file: Original) -> Iterator[tuple[int, int, bool, bool]]:
    """Yield from where to where lines of the file are deleted, and whether each side is shown."""
    at = 0
    for number, piece in enumerate([*pieces, None]):
        start = len(file.lines) if piece is None else piece.start
        if start < 0:
            continue
        if at < start:
            before = (pieces[place] for place in range(number - 1, -1, -1))
            after = (pieces[place] for place in range(number, len(pieces)))
            yield at, start, _shown(before, file), _shown(after, file)
        at = piece.end if piece is not None else at


def _shown(pieces: Iterable[Piece], file: Original) -> bool:
    """Whether the lines nearest to a deletion that stand in both files say something."""
    begun = False
    for piece in pieces:
        if piece.line < 0:
            return False
        if piece.start >= 0:
            begun = True
            if file.weights[piece.start] >= WORD:
                return True
        elif begun:
            return False
    return False
