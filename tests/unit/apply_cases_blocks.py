"""Shows lazy edits that a line, by standing in the file once or a block further on, could lead astray."""

from __future__ import annotations

from tests.unit.apply_cases import applied, refused

MARK = "// ... existing code ...\n"
SHARP = "# ... existing code ...\n"
PLUGIN = """\
local M = {}
M.win = nil

function M.setup(opts)
  M.opts = merge(defaults, opts or {})
  map("n", "<leader>o", M.open)
end

function M.open()
  if not M.ready then
    return
  end
  M.win = create(M.opts)
end

function M.close()
  if M.win then
    destroy(M.win)
  end
  M.shown = false
end

return M
"""
COMPOSE = """\
services:
  web:
    image: web:1
    environment:
      - HOST=localhost
    depends_on:
      - db
  worker:
    image: worker:1
    environment:
      - HOST=localhost
      - DEBUG=1
    depends_on:
      - db
      - queue
"""
CONTROLLER = """\
class PostsController
  def update
    authorize @post
    if @post.update(post_params)
      render json: @post
    else
      render json: @post.errors, status: :unprocessable_entity
    end
  end

  def destroy
    @post.destroy
  end

  private

  def post_params
    params.require(:post).permit(:title)
  end
end
"""
SCHEMA = """\
type User {
  id: ID!
  email: String!
  name: String!
  team: Team
}

type Team {
  id: ID!
  users: [User!]
}

enum Role {
  ADMIN
  MEMBER
}
"""
SERVER = """\
package server

import (
	"context"
	"fmt"
	"net/http"
)

func Run(ctx context.Context) error {
	fmt.Println("up")
	return http.ListenAndServe(":80", nil)
}
"""
TABLES = """\
CREATE TABLE users (
  id SERIAL,
  email TEXT,
  name TEXT,
  created_at TIMESTAMP
);

CREATE TABLE teams (
  id SERIAL,
  name TEXT,
  created_at TIMESTAMP
);
"""
BUFFER = """\
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
  return puts("x");
}
"""
CART = """\
from shop import Cart, Item


def test_add():
    cart = Cart()
    cart.add(Item("a", 2))
    assert cart.total() == 2


def test_remove():
    cart = Cart()
    cart.add(Item("a", 2))
    cart.remove("a")
    assert cart.total() == 0
    assert cart.items == []
"""
STEPS = """\
steps:
  - name: build
    image: base
    cmd: run build
  - name: test
    image: base
    cmd: run test
end: 1
"""
LISTEN = """\
void a(void) {
  int r;
  r = init(loop);
  assert(r == 0);
  r = serve(loop, 128);
  assert(r == 0);
  done();
}
"""
CONFIG = """\
export default {
  build: {
    target: "es2020",
    ssr: {
      external: ["a"]
    }
  },
  test: {
    ssr: {
      external: ["b"]
    }
  }
}
"""

CASES = [
    refused(
        "a new line that stands in another function, before a marker",
        PLUGIN.replace("  M.shown = false\n", "  M.win = false\n"),
        "function M.setup(opts)\n  M.opts = merge(defaults, opts or {})\n  M.win = false\n  -- ... existing code ...\n",
        "ambiguous",
    ),
    refused(
        "a function to its condition's end, and a marker behind it",
        PLUGIN,
        "-- ... existing code ...\nfunction M.open()\n  if not M.ready then\n    audit()\n    return\n  end\n\n"
        "-- ... existing code ...\n",
        "ambiguous",
        "unbounded_deletion",
    ),
    refused(
        "a line for a block under its first line and a marker, that the next one would fit as well",
        COMPOSE,
        f"services:\n  web:\n    {SHARP}    environment:\n      - HOST=localhost\n      - DEBUG=1\n      - EXTRA=1\n"
        f"    depends_on:\n      - db\n    {SHARP}",
        "ambiguous",
    ),
    refused(
        "an end of one method and the next one's head, written again",
        CONTROLLER,
        f"{SHARP}      render json: @post.errors, status: :unprocessable_entity\n    end\n  end\n\n  def destroy\n"
        "    authorize @post\n",
        "ambiguous",
    ),
    applied(
        "fields of a type without those before them",
        SCHEMA,
        f"type User {{\n  {SHARP}  name: String!\n  team: Team!\n}}\n",
        ("team: Team\n", "team: Team!\n"),
    ),
    refused(
        "the file's head with other imports, and nothing behind it",
        SERVER,
        'package server\n\nimport (\n\t"context"\n\t"log/slog"\n)\n',
        "invalid_result",
    ),
    refused(
        "columns of which one is left out, as another table has them",
        TABLES,
        "CREATE TABLE users (\n  -- ... existing code ...\n  name TEXT,\n  created_at TIMESTAMP\n);\n",
        "ambiguous",
    ),
    refused(
        "the file's first include is another, and two of three are not shown",
        BUFFER,
        f"#include <stdint.h>\n#include <string.h>\n{MARK}",
        "ambiguous",
    ),
    refused(
        "the last test without its last line",
        CART,
        'def test_remove():\n    cart = Cart()\n    cart.add(Item("a", 3))\n    cart.remove("a")\n'
        "    assert cart.total() == 0\n",
        "ambiguous",
    ),
    refused(
        "a file without its first line",
        CART,
        CART.split("\n", 1)[1].replace("== 2", "== 3"),
        "ambiguous",
    ),
    refused("an edit that changes nothing", COMPOSE, f"services:\n  web:\n    image: web:1\n    {SHARP}", "ambiguous"),
    applied(
        "an item behind whose first line a marker stands keeps its others",
        STEPS,
        f"steps:\n  - name: lint\n    image: base\n    cmd: run lint\n  - name: build\n  {SHARP}",
        ("  - name: build", "  - name: lint\n    image: base\n    cmd: run lint\n  - name: build"),
    ),
    applied(
        "a function with the lines of the one above it, which is shown by its end",
        LISTEN,
        f"{MARK}  r = serve(loop, 128);\n  assert(r == 0);\n  done();\n}}\n\nvoid b(void) {{\n  int r;\n"
        "  r = init(loop);\n"
        "  assert(r == 0);\n  r = serve(loop, 128);\n  assert(r == 0);\n  check(r);\n}\n",
        (
            "  done();\n}\n",
            "  done();\n}\n\nvoid b(void) {\n  int r;\n  r = init(loop);\n  assert(r == 0);\n  r = serve(loop, 128);\n"
            "  assert(r == 0);\n  check(r);\n}\n",
        ),
    ),
    applied(
        "a key's block, which its own has once, under what it is in",
        CONFIG,
        f'  {MARK}  test: {{\n    ssr: {{\n      noExternal: ["b"]\n    }}\n  }}\n  {MARK}}}\n'.replace(
            f"  {MARK}}}", "}"
        ),
        ('external: ["b"]', 'noExternal: ["b"]'),
    ),
    applied(
        "an edit that marks neither of its ends leaves out a last bracket as it does its first lines",
        CONFIG,
        '  test: {\n    ssr: {\n      external: ["c"]\n    }\n  }\n',
        ('external: ["b"]', 'external: ["c"]'),
    ),
]
