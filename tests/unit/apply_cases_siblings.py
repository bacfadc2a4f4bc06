"""Shows lazy edits with a new block among blocks like it: none of these may be taken for it, whatever they share."""

from __future__ import annotations

from tests.unit.apply_cases import applied, refused

STORE = """\
package store

func (s *Store) Get(k string) (int, error) {
	v, ok := s.m[k]
	if !ok {
		return 0, ErrMissing
	}
	return v, nil
}

func (s *Store) Set(k string, v int) error {
	s.m[k] = v
	return nil
}

func (s *Store) Delete(k string) error {
	delete(s.m, k)
	return nil
}

func (s *Store) Clear() error {
	s.m = nil
	return nil
}
"""
SET = "func (s *Store) Set(k string, v int) error {\n\ts.m[k] = v\n\treturn nil\n}\n\n"
DELETE = "func (s *Store) Delete(k string) error {\n\tdelete(s.m, k)\n\treturn nil\n}\n\n"
INC = "func (s *Store) Inc(k string) error {\n\ts.m[k]++\n\treturn nil\n}\n\n"
ROUTES = "const routes = [\n" + "".join(
    f'  {{\n    path: "/{name}",\n    component: {name.upper()},\n  }},\n' for name in ("a", "b", "c", "d")
)
ROUTES += "];\n"
LAST_ROUTE = '  {\n    path: "/d",\n    component: D,\n  },\n'
NEW_ROUTE = '  {\n    path: "/new",\n    component: New,\n  },\n'
ROUTE_A = '  {\n    path: "/a",\n    component: A,\n  },\n'
CASES_OF = """\
int f(int op) {
    switch (op) {
    case ADD:
        n = a + b;
        break;
    case MUL:
        n = a * b;
        break;
    case DIV:
        n = a / b;
        break;
    }
    return n;
}
"""
LIST = """\
<ul class="list">
  <li>
    <span>One</span>
  </li>
  <li>
    <span>Two</span>
  </li>
  <li>
    <span>Three</span>
  </li>
</ul>
"""
ROUND = """\
import shapes


def area(r):
    x = shapes.area(r)
    return x


def circumference(r):
    x = shapes.circumference(r)
    return x


def diameter(r):
    x = shapes.diameter(r)
    return x
"""
WORKFLOW = """\
jobs:
  build:
    runs-on: debian
    steps:
      - run: make
  test:
    runs-on: debian
    steps:
      - run: make test
  deploy:
    runs-on: debian
    steps:
      - run: make deploy
"""
STEPS = "steps:\n" + "".join(
    f"  - name: {name}\n    image: base\n    restart: always\n" for name in ("one", "two", "six")
)
IMPLS = """\
impl Shape for Circle {
    fn area(&self) -> f64 {
        PI * self.r * self.r
    }
}

impl Shape for Square {
    fn area(&self) -> f64 {
        self.side * self.side
    }
}
"""
STARTS = """\
int main(void) {
    if (!init())
        return 1;
    if (!load())
        return 1;
    if (!run())
        return 1;
    return 0;
}
"""
RULES = ".a {\n  color: red;\n}\n.b {\n  margin: 0;\n}\n.c {\n  padding: 0;\n}\n"
TAGS = """\
from .users import User
from .posts import Post
from .tags import Tag

__all__ = ["User", "Post", "Tag", "make_tag"]


def make_user(name):
    return User(name=name)


def make_post(title):
    return Post(title=title)


def make_tag(name):
    tag = Tag(name=name)
    return tag
"""
HOOKS = """\
export function Panel() {
  return (
    <section
      className={cn("grid w-full max-w-lg gap-4 rounded-lg p-6 top-1/3", className)}
    >
      {children}
    </section>
  )
}
"""
GO = "// ... existing code ...\n"
SIBLING = ("ambiguous", "lost_definition", "invalid_result", "unbounded_deletion")

CASES = [
    refused("go a method between two that end alike", STORE, f"{GO}\n{SET}{INC}{GO}", *SIBLING),
    applied(
        "go a method between two that are shown",
        STORE,
        f"{GO}\n{SET}{INC}{DELETE}{GO}",
        (SET + DELETE, SET + INC + DELETE),
    ),
    applied(
        "go a method in the place of one, both neighbours shown",
        STORE,
        f"{GO}\n{SET}{INC}func (s *Store) Clear() error {{\n\ts.m = nil\n\treturn nil\n}}\n",
        (DELETE, INC),
    ),
    refused("javascript a last route", ROUTES, f"const routes = [\n  {GO}{NEW_ROUTE}];\n", *SIBLING),
    refused("javascript a first route", ROUTES, f"const routes = [\n{NEW_ROUTE}  {GO}];\n", *SIBLING),
    refused("javascript a route behind one", ROUTES, f"const routes = [\n{ROUTE_A}{NEW_ROUTE}  {GO}];\n", *SIBLING),
    refused(
        "c a case between two",
        CASES_OF,
        f"    {GO}    case MUL:\n        n = a * b;\n        break;\n"
        f"    case MOD:\n        n = a % b;\n        break;\n    {GO}",
        *SIBLING,
    ),
    refused(
        "html an item between two",
        LIST,
        "  <!-- ... existing code ... -->\n  <li>\n    <span>Two</span>\n  </li>\n"
        "  <li>\n    <span>Two and a half</span>\n  </li>\n  <!-- ... existing code ... -->\n",
        *SIBLING,
    ),
    refused(
        "python a function between two that return alike",
        ROUND,
        "# ... existing code ...\n\ndef area(r):\n    x = shapes.area(r)\n    return x\n\n\n"
        "def volume(r):\n    x = shapes.volume(r)\n    return x\n\n# ... existing code ...\n",
        *SIBLING,
    ),
    refused(
        "yaml a job between two",
        WORKFLOW,
        "jobs:\n  build:\n    runs-on: debian\n    steps:\n      - run: make\n"
        "  lint:\n    runs-on: debian\n    steps:\n      - run: make lint\n  # ... existing jobs ...\n",
        *SIBLING,
    ),
    refused(
        "yaml an item of a list between two",
        STEPS,
        "steps:\n  - name: one\n    image: base\n    restart: always\n"
        "  - name: new\n    image: base\n    restart: always\n  # ... other steps ...\n",
        *SIBLING,
    ),
    refused(
        "rust an implementation between two",
        IMPLS,
        "impl Shape for Circle {\n    fn area(&self) -> f64 {\n        PI * self.r * self.r\n    }\n}\n\n"
        f"impl Shape for Line {{\n    fn area(&self) -> f64 {{\n        0.0\n    }}\n}}\n\n{GO}",
        *SIBLING,
    ),
    refused(
        "c a condition between two",
        STARTS,
        f"int main(void) {{\n    if (!init())\n        return 1;\n    if (!check())\n        return 1;\n    {GO}}}\n",
        *SIBLING,
    ),
    refused(
        "css a rule between two",
        RULES.replace("}\n", "  width: 1px;\n}\n"),
        ".a {\n  color: red;\n  width: 1px;\n}\n.new {\n  color: blue;\n  width: 1px;\n}\n/* ... other rules ... */\n",
        *SIBLING,
    ),
    refused("css two of three rules", RULES, RULES[: RULES.index(".c")].replace("red", "blue"), "ambiguous"),
    refused(
        "python a small file without what its last function needs",
        TAGS,
        TAGS[: TAGS.index("\n\ndef make_tag")]
        .replace("from .tags import Tag\n", "")
        .replace(', "Tag", "make_tag"', ""),
        "ambiguous",
        "lost_definition",
    ),
    applied(
        "tsx a long line changed in a tag",
        HOOKS,
        "export function Panel() {\n  return (\n    <section\n"
        '      className={cn("grid w-full max-w-lg gap-4 rounded-lg p-6 top-[15%]", className)}\n    >\n'
        "      {/* ... existing code ... */}\n",
        ("top-1/3", "top-[15%]"),
    ),
]
