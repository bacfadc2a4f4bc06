"""Shows lazy edits beside code that is like theirs, with what must come: what is not shown keeps all that it has."""

from __future__ import annotations

from tests.unit.apply_cases import applied, refused

MARK = "# ... existing code ...\n"
VIEWS = """\
from flask import Flask

app = Flask(__name__)


@app.route("/users")
def users():
    rows = db.users()
    return jsonify(rows)


@app.route("/orders")
def orders():
    rows = db.orders()
    return jsonify(rows)


if __name__ == "__main__":
    app.run()
"""
ITEMS = '@app.route("/items")\ndef items():\n    rows = db.items()\n    return jsonify(rows)\n'
STORE = """\
class Store:
    def fetch(self, key):
        item = self.items.get(key)
        self.check(item)
        return item

    def remove(self, key):
        item = self.items.pop(key)
        self.check(item)
        return item

    def close(self):
        self.items.clear()
"""
LIMITS = "[a]\nx = 1\ny = 2\n\n[b]\nx = 1\ny = 3\n\n[c]\nz = 1\n"
TARGETS = "build:\n\tgo build\n\techo done\n\ntest:\n\tgo test ./...\n\techo done\n\nclean:\n\trm -rf out\n"
JOBS = """\
jobs:
  build:
    runs-on: debian
    steps:
      - run: build
  test:
    runs-on: debian
    steps:
      - run: test

  deploy:
    needs: test
    steps:
      - run: deploy
"""
POD = """\
containers:
  - name: web
    image: web:1
    cpu: 1
  - name: side
    image: side:1
    cpu: 1
volumes:
  - name: data
"""
GUIDE = """\
# App

## Build

Use the shell:

    app build

## Run

Use the shell:

    app run

## Test

None.
"""
TOOL = """\
import sys

import store


def load(path):
    with open(path) as file:
        return file.read()


def main():
    text = load(sys.argv[1])
    print(text)


if __name__ == "__main__":
    main()
"""
SERVER = "const a = 1;\n\nfunction close() {\n  return a;\n}\n\napp.listen(3000);\nmodule.exports = app;\n"
CHAIN = "def a():\n    return b()\n\n\ndef b():\n    return 1\n\n\ndef c():\n    return b()\n"
CART = """\
package a.b;

public class Cart {
    private final List<Item> items;

    public int count() {
        int n = 0;
        return n;
    }

    @Override
    public String toString() {
        return "Cart";
    }
}
"""
IS_EMPTY = "    public boolean isEmpty() {\n        return items.isEmpty();\n    }\n"

CASES = [
    applied(
        "a view that ends as the one above it",
        VIEWS,
        f'{MARK}\n{ITEMS}\n\nif __name__ == "__main__":\n    app.run()\n',
        ("\n\nif __name__", f"\n{ITEMS}\n\nif __name__"),
    ),
    applied(
        "a method that ends as the one above it",
        STORE,
        f"{MARK}    def remove_everything(self):\n        item = list(self.items)\n        self.check(item)\n"
        f"        return item\n\n    def close(self):\n{MARK}",
        (
            "    def close",
            "    def remove_everything(self):\n        item = list(self.items)\n        self.check(item)\n"
            "        return item\n\n    def close",
        ),
    ),
    applied(
        "a section that has the values of the one above it",
        LIMITS,
        f"{MARK}\n[n]\nx = 1\ny = 3\n\n[c]\n{MARK}",
        ("[c]", "[n]\nx = 1\ny = 3\n\n[c]"),
    ),
    applied(
        "a target that ends as the one above it",
        TARGETS,
        f"{MARK}\nlint:\n\tgolint ./...\n\techo done\n\nclean:\n{MARK}",
        ("clean:", "lint:\n\tgolint ./...\n\techo done\n\nclean:"),
    ),
    applied(
        "a job that begins as the one above it",
        JOBS,
        f"{MARK}  docs:\n    runs-on: debian\n    steps:\n      - run: docs\n\n  deploy:\n{MARK}",
        ("\n  deploy:", "  docs:\n    runs-on: debian\n    steps:\n      - run: docs\n\n  deploy:"),
    ),
    applied(
        "a container beside one with the same limits",
        POD,
        f"{MARK}  - name: metrics\n    image: metrics:1\n    cpu: 1\nvolumes:\n{MARK}",
        ("volumes:", "  - name: metrics\n    image: metrics:1\n    cpu: 1\nvolumes:"),
    ),
    applied(
        "a chapter that begins as the one above it",
        GUIDE,
        "<!-- ... existing content ... -->\n\n## Deploy\n\nUse the shell:\n\n    app deploy\n\n## Test\n\n"
        "<!-- ... existing content ... -->\n",
        ("## Test", "## Deploy\n\nUse the shell:\n\n    app deploy\n\n## Test"),
    ),
    refused(
        "a function at whose end the marker is missing",
        TOOL,
        f'{MARK}def main():\n    text = load(sys.argv[1])\n    print(text)\n    print("done")\n',
        "ambiguous",
    ),
    refused(
        "a function with a new last line at whose end the marker is missing",
        TOOL,
        f"{MARK}def main():\n    text = load(sys.argv[1])\n    print(text.upper())\n",
        "ambiguous",
    ),
    refused(
        "a section at whose end the marker is missing", LIMITS, f"{MARK}[b]\nx = 1\nz = 3\n", "ambiguous", "no_anchor"
    ),
    refused(
        "a job at whose end the marker is missing",
        JOBS,
        f"{MARK}  test:\n    runs-on: debian\n    steps:\n      - run: test --all\n",
        "ambiguous",
    ),
    refused(
        "a new function at whose end the marker is missing",
        SERVER,
        "// ... existing code ...\nfunction close() {\n  return a;\n}\n\nfunction open() {\n  return a + 1;\n}\n",
        "ambiguous",
    ),
    refused(
        "a function that is left out and still called",
        CHAIN,
        "def a():\n    return b() + 1\n\n\ndef c():\n    return b()\n",
        "lost_definition",
    ),
    refused(
        "a function that is left out between two new ones",
        CHAIN.replace("def c", "def last():\n    return 0\n\n\ndef c"),
        f"def a():\n    return b(1)\n\n\ndef last():\n    return b(2)\n\n\n{MARK}",
        "lost_definition",
        "ambiguous",
    ),
    refused(
        "a function whose name is a part of another word of the update",
        "import a\n\n\ndef one(x):\n    y = a.one(x)\n    return y\n\n\ndef run():\n    return 1\n",
        f'{MARK}def one(x):\n    y = a.one(x)\n    log("running")\n',
        "ambiguous",
        "lost_definition",
    ),
    applied(
        "java a method at the end of a class",
        CART,
        f"// ... existing code ...\npublic class Cart {{\n    // ... existing code ...\n\n{IS_EMPTY}}}\n",
        ('return "Cart";\n    }\n', f'return "Cart";\n    }}\n\n{IS_EMPTY}'),
    ),
    applied(
        "an import of almost the same name",
        f"import json\nimport os\nimport sys\n\n\n{CHAIN}",
        f"import json\nimport json5\n{MARK}",
        ("import json\n", "import json\nimport json5\n"),
    ),
    applied(
        "a paragraph between two",
        "# T\n\nFirst paragraph.\n\nSecond paragraph.\n\nThird paragraph.\n",
        "# T\n\nFirst paragraph.\n\nInserted one.\n\n<!-- ... existing content ... -->\n",
        ("First paragraph.\n", "First paragraph.\n\nInserted one.\n"),
    ),
]
