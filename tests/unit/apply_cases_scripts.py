"""Shows lazy edits of Ruby, Bash, SQL and Lua files, with the answer or the refusal that each must get."""

from __future__ import annotations

from tests.unit.apply_cases import applied, refused

ORDER_RB = """\
require 'json'

module Shop
  class Order
    attr_reader :lines

    def initialize(lines = [])
      @lines = lines
    end

    def total
      lines.sum { |line| line.price * line.count }
    end

    def empty?
      lines.empty?
    end

    def to_json(*args)
      { lines: lines, total: total }.to_json(*args)
    end
  end
end
"""
BACKUP_SH = """\
#!/usr/bin/env bash
set -euo pipefail

TARGET=/var/backups
KEEP=7

log() {
    echo "$(date) $1"
}

prune() {
    find "$TARGET" -mtime +"$KEEP" -delete
}

if [ ! -d "$TARGET" ]; then
    mkdir -p "$TARGET"
fi

log "starting"
tar czf "$TARGET/home.tgz" /home
prune
log "done"
"""
SCHEMA_SQL = """\
CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL
);

CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users (id),
    placed_at TIMESTAMP NOT NULL
);

CREATE INDEX orders_by_user ON orders (user_id);
"""
PLUGIN_LUA = """\
local M = {}

local defaults = {
  width = 80,
  border = "single",
}

function M.setup(options)
  M.options = vim.tbl_extend("force", defaults, options or {})
end

function M.open()
  local buffer = vim.api.nvim_create_buf(false, true)
  return buffer
end

return M
"""
CASES = [
    applied(
        "ruby method changed between markers",
        ORDER_RB,
        """\
# ... existing code ...

    def total
      lines.sum(&:amount)
    end

# ... existing code ...
""",
        ("lines.sum { |line| line.price * line.count }", "lines.sum(&:amount)"),
    ),
    refused(
        "ruby method added before the ends",
        ORDER_RB,
        """\
module Shop
  class Order
    # ... existing methods ...

    def to_json(*args)
      { lines: lines, total: total }.to_json(*args)
    end

    def <<(line)
      lines << line
    end
  end
end
""",
        "ambiguous",
    ),
    applied(
        "ruby dedented method",
        ORDER_RB,
        """\
# ... existing code ...
def empty?
  return true if lines.nil?
  lines.empty?
end
# ... existing code ...
""",
        ("      lines.empty?\n", "      return true if lines.nil?\n      lines.empty?\n"),
    ),
    applied(
        "bash variable changed",
        BACKUP_SH,
        "#!/usr/bin/env bash\nset -euo pipefail\n\nTARGET=/srv/backups\nKEEP=7\n\n# ... rest of the script ...\n",
        ("TARGET=/var/backups", "TARGET=/srv/backups"),
    ),
    applied(
        "bash steps at the end replaced",
        BACKUP_SH,
        """\
# ... existing code ...

log "starting"
for home in /home/*; do
    tar czf "$TARGET/$(basename "$home").tgz" "$home"
done
prune
log "done"
""",
        (
            'tar czf "$TARGET/home.tgz" /home\n',
            'for home in /home/*; do\n    tar czf "$TARGET/$(basename "$home").tgz" "$home"\ndone\n',
        ),
    ),
    applied(
        "bash function rewritten, hash marker with few words",
        BACKUP_SH,
        """\
# ...
prune() {
    find "$TARGET" -name '*.tgz' -mtime +"$KEEP" -print -delete
}
# ...
""",
        ('    find "$TARGET" -mtime', "    find \"$TARGET\" -name '*.tgz' -mtime"),
        ('+"$KEEP" -delete', '+"$KEEP" -print -delete'),
    ),
    applied(
        "sql column added, dashes as comments",
        SCHEMA_SQL,
        """\
-- ... existing code ...

CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users (id),
    placed_at TIMESTAMP NOT NULL,
    note TEXT
);

-- ... existing code ...
""",
        ("    placed_at TIMESTAMP NOT NULL\n", "    placed_at TIMESTAMP NOT NULL,\n    note TEXT\n"),
    ),
    refused(
        "sql line that two tables have",
        SCHEMA_SQL,
        "-- ... existing code ...\n    id INTEGER PRIMARY KEY,\n    made_at TIMESTAMP,\n-- ... existing code ...\n",
        "ambiguous",
    ),
    applied(
        "lua default added and function changed",
        PLUGIN_LUA,
        """\
-- ... existing code ...
local defaults = {
  width = 80,
  height = 24,
  border = "single",
}

-- ... existing code ...

function M.open()
  local buffer = vim.api.nvim_create_buf(false, true)
  vim.bo[buffer].filetype = "shop"
  return buffer
end

-- ... existing code ...
""",
        ("  width = 80,\n", "  width = 80,\n  height = 24,\n"),
        ("  return buffer\n", '  vim.bo[buffer].filetype = "shop"\n  return buffer\n'),
    ),
]
