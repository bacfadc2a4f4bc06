"""Decides whether a file is still whole: what language it is in, whether it has new errors, and what it defines.

The grammars are tree-sitter's, installed beside reflexd; nothing is loaded from elsewhere. A file of no known language,
or one that its grammar does not understand to begin with, is judged by its brackets alone.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections import Counter

from msgspec import Struct
from tree_sitter import Language, Parser, Tree

from reflexd.engine.apply.definitions import definitions, doubled, is_named
from reflexd.engine.apply.scopes import parents

GRAMMARS = {
    "python": ("tree_sitter_python", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "go": ("tree_sitter_go", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "java": ("tree_sitter_java", "language"),
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "csharp": ("tree_sitter_c_sharp", "language"),
    "ruby": ("tree_sitter_ruby", "language"),
    "php": ("tree_sitter_php", "language_php"),
    "bash": ("tree_sitter_bash", "language"),
    "css": ("tree_sitter_css", "language"),
    "html": ("tree_sitter_html", "language"),
    "json": ("tree_sitter_json", "language"),
    "yaml": ("tree_sitter_yaml", "language"),
}
"""The module of each language's grammar and the function in it."""
SIGNS = {
    "python": r"^[ \t]*(?:def \w+\(|(?:class|if|for|while|with|elif) .*:[ \t]*$|from [\w.]+ import |import [\w.]+ *$)",
    "javascript": r"^[ \t]*(?:const |let |var |function\b|import .* from ['\"]|export |module\.exports|describe\()",
    "typescript": r"^[ \t]*(?:(?:export )?(?:interface|type|enum) \w+|import type )|: (?:string|number|boolean|void)\b",
    "tsx": r"^[ \t]*(?:return \([ \t]*$|<[A-Z]\w*|</\w+>|/>)|className=",
    "go": r"^(?:package \w+[ \t]*$|func |import \(|type \w+ (?:struct|interface))|:= ",
    "rust": r"^[ \t]*(?:pub )?(?:fn \w+|impl\b|use [\w:]+|mod \w+|struct \w+|enum \w+|let mut |#\[\w+)",
    "java": r"^[ \t]*(?:package [\w.]+;|import [\w.*]+;|(?:public|private|protected) .*[({][ \t]*$|@Override)",
    "c": r"^[ \t]*(?:#\s*(?:include|define|ifdef|ifndef)\b|(?:static|struct|typedef|unsigned|int|void|char) )|->",
    "cpp": r"^[ \t]*(?:namespace \w+|template ?<|class \w+.*[{:][ \t]*$|using \w+|public:|private:)|std::|\bconst \w+&",
    "csharp": r"^[ \t]*(?:using [\w.]+;|namespace [\w.]+|(?:public|private|internal) .*\{ get;)",
    "ruby": r"^[ \t]*(?:def \w+[!?]?\b(?!.*:[ \t]*$)|end[ \t]*$|require ['\"]|module [A-Z]|attr_\w+ :)",
    "php": r"^<\?php|^[ \t]*(?:\$\w+ = |public function|use [\w\\]+;)",
    "bash": r"^#!.*\bsh|^#!.*bash|^[ \t]*(?:fi|done|esac|then)[ \t]*$|^[ \t]*(?:if|while) \[|\$\{\w+",
    "css": r"^[ \t]*(?:[\w-]+:\s.*;[ \t]*$|[.#&@:*]?[\w-]+.*\{[ \t]*$|\}[ \t]*$)",
    "html": r"^[ \t]*<(?:!DOCTYPE|html|head|body|div|script|p|span|h[1-6]|link|meta|ul|li|a)\b",
    "json": r"^[ \t]*(?:[{}\[\]],?[ \t]*$|\"[^\"]*\":\s)",
    "yaml": r"^[ \t]*(?:- )?[\w.-]+:(?:\s|$)",
}
_SIGNS = {name: re.compile(pattern, re.MULTILINE) for name, pattern in SIGNS.items()}
_MORE = {
    "cpp": ("c",),
    "c": ("cpp",),
    "tsx": ("javascript", "typescript"),
    "typescript": ("tsx",),
    "javascript": ("tsx", "typescript"),
}
READ_CHARS = 30_000
"""Of a file, to know its language."""
PAIRS = {"(": ")", "[": "]", "{": "}"}


def recognise(text: str) -> tuple[str, Tree | None]:
    """Return the language that a file is written in without an error, and its tree; "" and None for none."""
    if not text.strip():
        return "", None
    head = text[:READ_CHARS]
    lines = head.count("\n") + 1
    if head.lstrip()[:1] in "{[" and not (tree := _parse(text, "json")).root_node.has_error:
        return "json", tree
    counts = {name: sum(1 for _ in sign.finditer(head)) for name, sign in _SIGNS.items()}
    # What many languages' lines look like counts less.
    counts["css"] = counts["css"] // 3
    counts["yaml"] = counts["yaml"] // 2
    counts["json"] = 0
    best = sorted((name for name in counts if counts[name] * 40 >= lines), key=lambda name: -counts[name])[:2]
    tried: list[str] = []
    for name in best:
        tried += [one for one in (name, *_MORE.get(name, ())) if one not in tried]
    for name in tried:
        if not (tree := _parse(text, name)).root_node.has_error:
            return name, tree
    return "", None


@functools.cache
def _parser(language: str) -> Parser:
    module, function = GRAMMARS[language]
    return Parser(Language(getattr(importlib.import_module(module), function)()))


def _parse(text: str, language: str) -> Tree:
    return _parser(language).parse(text.encode("utf-8", "surrogatepass"))


def _first_error(tree: Tree) -> int:
    """Return the line, from 0, of the first thing that a grammar does not understand or misses."""
    node = tree.root_node
    while not (node.is_error or node.is_missing):
        broken = next((child for child in node.children if child.has_error or child.is_missing), None)
        if broken is None:
            break
        node = broken
    return node.start_point[0]


def brackets(text: str) -> dict[str, int]:
    """Return how many more of each bracket are opened than closed; strings and comments count, too."""
    counts = Counter(text)
    return {opened: counts[opened] - counts[closed] for opened, closed in PAIRS.items()}


class Complaint(Struct, frozen=True):
    """A reason and what is wrong with a new file that was not wrong with the old one; on which of its lines, from 0."""

    reason: str
    what: str
    lines: list[int]


class Judge:
    """What a file is like before an edit, and so what must not become worse.

    `definitions` are its own, `above` what each of its lines is under (scopes.py), `flat` whether by its sections, too.
    """

    def __init__(self, original: str) -> None:
        self._brackets = brackets(original)
        self._language, tree = recognise(original)
        # Where no grammar tells what belongs to what, sections do, as indentation does everywhere.
        self.flat = not self._language
        self.above = parents([line.rstrip("\r") for line in original.split("\n")], self.flat)
        self.definitions = definitions(original, self._language, tree)
        self._doubled = doubled(self.definitions)

    def complaint(self, merged: str, *, whole: bool = False) -> Complaint | None:
        """Return what is wrong with the new file that was not wrong with the old one; None for nothing.

        `whole`: it was given whole, so that what it does not define any more may just have been left out.
        """
        after = brackets(merged)
        for opened, closed in PAIRS.items():
            if self._brackets[opened] == 0 and after[opened] != 0:
                return Complaint("invalid_result", f"the brackets {opened} and {closed} would not balance any more", [])
        language, tree = self._language, None
        for language in (self._language, *_MORE.get(self._language, ())) if self._language else ():
            tree = _parse(merged, language)
            if not tree.root_node.has_error:  # it may be the update that tells one language from another
                break
        else:
            if tree is not None:
                what = f"the file would not be valid {self._language} any more"
                return Complaint("invalid_result", what, [_first_error(tree)])
        found = definitions(merged, language, tree)
        for header, name in doubled(found).items():
            if header not in self._doubled:
                lines = [one.line for one in found if one.header == header]
                return Complaint("doubled_definition", f"{name} would be defined twice", lines)
        gone = {one.name for one in self.definitions if whole and not one.key} - {one.name for one in found}
        for name in sorted(gone):
            if is_named(name, merged):
                return Complaint("lost_definition", f"{name} would be deleted, and it is still named", [])
        return None
