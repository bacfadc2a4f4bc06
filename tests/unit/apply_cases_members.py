"""Shows new members with comments and annotations, last members behind a marker, and imports that are still used."""

from __future__ import annotations

from tests.unit.apply_cases import applied, refused

MARK = "// ... existing code ...\n"
SHARP = "# ... existing code ...\n"
GAUGE = """\
package gauge

import (
\t"errors"
\t"sync"
)

type Gauge struct {
\tmutex sync.Mutex
\tvalue float64
}

func (g *Gauge) Read() (float64, error) {
\tg.mutex.Lock()
\tdefer g.mutex.Unlock()
\tif g.value < 0 {
\t\treturn 0, errors.New("not read yet")
\t}
\treturn g.value, nil
}

func (g *Gauge) Clear() error {
\tg.mutex.Lock()
\tdefer g.mutex.Unlock()
\tg.value = 0
\treturn nil
}
"""
RESET = "// Reset sets it back.\nfunc (g *Gauge) Reset() {\n\tg.value = -1\n}\n\n"
TANK = """\
public class Tank {
    private final Valve valve;

    public Tank(Valve valve) {
        this.valve = valve;
    }

    public void fill(int litres) {
        valve.open(litres);
    }

    public void drain() {
        valve.close();
    }
}
"""
LEVEL = "    /** In litres. */\n    public int level() {\n        return valve.seen();\n    }\n"
SIGNALS = """\
pub enum Signal {
    Start,
    Stop(u8),
}

pub struct Line {
    pub name: String,
}

pub fn send(signal: Signal) {
    wire(signal);
}
"""
HUES = """\
from enum import Enum


class Hue(Enum):
    RED = 1
    GREEN = 2


BY_NAME = {
    "red": Hue.RED,
    "green": Hue.GREEN,
}


def hue(name):
    return BY_NAME[name]
"""
CARGO = """\
[package]
name = "tank"
version = "0.1.0"

[dependencies]
serde = "1.0"
tokio = "1.2"

[dev-dependencies]
tempfile = "3.0"
"""
CARDS = """\
.card {
  padding: 1px;
}
.wide {
  padding: 2px;
}
@media print {
  .card {
    padding: 0;
  }
}
"""
TABLES = """\
CREATE TABLE pumps (
    id INTEGER PRIMARY KEY,
    place TEXT NOT NULL
);

CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    pump INTEGER NOT NULL
);
"""
TOOL = """\
import json
import os
import sys

from tank import fill


def main():
    data = json.loads(sys.stdin.read())
    fill(os.getcwd(), data)
"""
SCRIPT = """\
import { Pump } from './pump';
import { Valve } from './valve';
import { Tank } from './tank';

export function build() {
  return new Tank(new Pump(), new Valve());
}
"""
SPAN = "def span(text):\n    start = text.find('a')\n    end = len(text)\n    return start\n"

CASES = [
    applied(
        "go function with a comment before a known one",
        GAUGE,
        f"{MARK}{RESET}func (g *Gauge) Clear() error {{\n{MARK}",
        ("func (g *Gauge) Clear", f"{RESET}func (g *Gauge) Clear"),
    ),
    refused(
        "go function behind the last one's header, with a last line that both have",
        GAUGE,
        f"{MARK}func (g *Gauge) Clear() error {{\n\t{MARK}}}\n\nfunc (g *Gauge) Close() error {{\n\tg.stop()\n"
        "\treturn nil\n}\n",
        "ambiguous",
    ),
    applied(
        "go field behind a marker",
        GAUGE,
        f"{MARK}type Gauge struct {{\n\t{MARK}\tunit string\n}}\n{MARK}",
        ("\tvalue float64\n", "\tvalue float64\n\tunit string\n"),
    ),
    refused(
        "go import in the place of one that is used",
        GAUGE,
        f'package gauge\n\nimport (\n\t"log"\n\t"sync"\n)\n\n{MARK}',
        "lost_definition",
        "ambiguous",
    ),
    applied(
        "java method with a comment before a known one",
        TANK,
        f"{MARK}{LEVEL}\n    public void drain() {{\n{MARK}",
        ("    public void drain", f"{LEVEL}\n    public void drain"),
    ),
    applied(
        "java annotation on a known method",
        TANK,
        f"{MARK}    @Locked\n    public void drain() {{\n        {MARK}    }}\n}}\n",
        ("    public void drain", "    @Locked\n    public void drain"),
    ),
    applied(
        "rust variant behind a marker",
        SIGNALS,
        f"pub enum Signal {{\n    {MARK}    Pause,\n}}\n{MARK}",
        ("    Stop(u8),\n", "    Stop(u8),\n    Pause,\n"),
    ),
    applied(
        "rust function with an attribute before a known one",
        SIGNALS,
        f"{MARK}#[must_use]\npub fn ready() -> bool {{\n    true\n}}\n\npub fn send(signal: Signal) {{\n{MARK}",
        ("pub fn send", "#[must_use]\npub fn ready() -> bool {\n    true\n}\n\npub fn send"),
    ),
    applied(
        "python key behind a marker",
        HUES,
        f'{SHARP}BY_NAME = {{\n    {SHARP}    "blue": Hue.BLUE,\n}}\n{SHARP}',
        ("Hue.GREEN,\n", 'Hue.GREEN,\n    "blue": Hue.BLUE,\n'),
    ),
    applied(
        "python decorator on a known function",
        HUES,
        f"{SHARP}@cached\ndef hue(name):\n    {SHARP}",
        ("def hue", "@cached\ndef hue"),
    ),
    applied(
        "toml first entry of a section",
        CARGO,
        f'{SHARP}[dependencies]\nanyhow = "1.0"\n{SHARP}',
        ("[dependencies]\n", '[dependencies]\nanyhow = "1.0"\n'),
    ),
    applied(
        "css property behind a marker, in a rule that a query has, too",
        CARDS,
        ".card {\n  /* ... */\n  color: red;\n}\n/* ... */\n",
        ("  padding: 1px;\n", "  padding: 1px;\n  color: red;\n"),
    ),
    applied(
        "sql column of a table whose end the next one has, too",
        TABLES,
        "CREATE TABLE pumps (\n    id INTEGER PRIMARY KEY,\n    place TEXT NOT NULL UNIQUE\n);\n\n-- ... rest ...\n",
        ("place TEXT NOT NULL\n", "place TEXT NOT NULL UNIQUE\n"),
    ),
    refused(
        "python import that is used, with another in its place",
        TOOL,
        f"import json\nimport re\nimport sys\n\nfrom tank import fill\n\n\n{SHARP}",
        "lost_definition",
        "ambiguous",
    ),
    applied(
        "python import that nothing uses any more",
        TOOL.replace("os.getcwd()", "'.'"),
        f"import json\nimport sys\n\nfrom tank import fill\n\n\n{SHARP}",
        ("import os\n", ""),
    ),
    applied(
        "python import whose name another one gives now",
        TOOL,
        f"import json\nimport sys\nfrom tank import os\n\nfrom tank import fill\n\n\n{SHARP}",
        ("import os\nimport sys\n", "import sys\nfrom tank import os\n"),
    ),
    refused(
        "javascript import that is used, with one of almost its name in its place",
        SCRIPT,
        f"import {{ Pumps }} from './pumps';\nimport {{ Valve }} from './valve';\n{MARK}",
        "lost_definition",
        "ambiguous",
    ),
    applied("a variable called end", SPAN, SPAN.replace("end =", "stop ="), ("end =", "stop =")),
    applied(
        "a text in Go that has a package of its own",
        'package main\n\nimport "testing"\n\nfunc TestAll(t *testing.T) {\n\tcheck(t, "a")\n}\n',
        f'{MARK}func TestAll(t *testing.T) {{\n\tcheck(t, "a")\n\tcheck(t, `\npackage other\n`)\n}}\n',
        ('\tcheck(t, "a")\n', '\tcheck(t, "a")\n\tcheck(t, `\npackage other\n`)\n'),
    ),
]
