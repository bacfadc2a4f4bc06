"""Shows lazy edits of Go and Rust files, with the answer or the refusal that each must get."""

from __future__ import annotations

from tests.unit.apply_cases import applied, refused

POOL_GO = """\
package pool

import (
\t"errors"
\t"sync"
)

var ErrClosed = errors.New("pool: closed")

type Pool struct {
\tmu    sync.Mutex
\tconns []*Conn
}

func New(size int) *Pool {
\treturn &Pool{conns: make([]*Conn, 0, size)}
}

func (p *Pool) Get() (*Conn, error) {
\tp.mu.Lock()
\tdefer p.mu.Unlock()
\tif len(p.conns) == 0 {
\t\treturn nil, ErrClosed
\t}
\tconn := p.conns[0]
\tp.conns = p.conns[1:]
\treturn conn, nil
}

func (p *Pool) Put(conn *Conn) {
\tp.mu.Lock()
\tdefer p.mu.Unlock()
\tp.conns = append(p.conns, conn)
}
"""
SHAPES_RS = """\
use std::fmt;

#[derive(Debug, Clone)]
pub enum Shape {
    Circle(f64),
    Square(f64),
}

pub struct Canvas {
    shapes: Vec<Shape>,
}

impl Shape {
    pub fn area(&self) -> f64 {
        match self {
            Shape::Circle(r) => std::f64::consts::PI * r * r,
            Shape::Square(a) => a * a,
        }
    }
}

impl Canvas {
    pub fn new() -> Self {
        Canvas { shapes: Vec::new() }
    }

    pub fn add(&mut self, shape: Shape) {
        self.shapes.push(shape);
    }

    pub fn area(&self) -> f64 {
        self.shapes.iter().map(Shape::area).sum()
    }
}

impl fmt::Display for Canvas {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} shapes", self.shapes.len())
    }
}
"""
CASES = [
    applied(
        "go field and its initial value",
        POOL_GO,
        """\
// ... existing code ...

type Pool struct {
\tmu     sync.Mutex
\tconns  []*Conn
\tclosed bool
}

// ... existing code ...
""",
        ("\tmu    sync.Mutex\n\tconns []*Conn\n", "\tmu     sync.Mutex\n\tconns  []*Conn\n\tclosed bool\n"),
    ),
    applied(
        "go early return in one of two methods",
        POOL_GO,
        """\
// ... existing code ...

func (p *Pool) Put(conn *Conn) {
\tif conn == nil {
\t\treturn
\t}
\tp.mu.Lock()
\tdefer p.mu.Unlock()
\tp.conns = append(p.conns, conn)
}
""",
        (
            "func (p *Pool) Put(conn *Conn) {\n",
            "func (p *Pool) Put(conn *Conn) {\n\tif conn == nil {\n\t\treturn\n\t}\n",
        ),
    ),
    applied(
        "go spaces in the update, tabs in the file",
        POOL_GO,
        """\
// ... existing code ...

func (p *Pool) Get() (*Conn, error) {
    p.mu.Lock()
    defer p.mu.Unlock()
    if len(p.conns) == 0 {
        return nil, ErrClosed
    }
    conn := p.conns[0]
    p.conns = p.conns[1:]
    p.used++
    return conn, nil
}

// ... existing code ...
""",
        ("\tp.conns = p.conns[1:]\n", "\tp.conns = p.conns[1:]\n\tp.used++\n"),
    ),
    applied(
        "go import and function at the end",
        POOL_GO,
        """\
package pool

import (
\t"errors"
\t"fmt"
\t"sync"
)

// ... existing code ...

func (p *Pool) Put(conn *Conn) {
\t// ... existing code ...
\tp.conns = append(p.conns, conn)
}

func (p *Pool) String() string {
\treturn fmt.Sprintf("pool of %d", len(p.conns))
}
""",
        ('\t"errors"\n', '\t"errors"\n\t"fmt"\n'),
        (
            "\tp.conns = append(p.conns, conn)\n}\n",
            "\tp.conns = append(p.conns, conn)\n}\n\n"
            'func (p *Pool) String() string {\n\treturn fmt.Sprintf("pool of %d", len(p.conns))\n}\n',
        ),
    ),
    refused(
        "go lock that two methods have",
        POOL_GO,
        "// ... existing code ...\n\tp.mu.Lock()\n\tp.locks++\n\tdefer p.mu.Unlock()\n// ... existing code ...\n",
        "ambiguous",
    ),
    applied(
        "rust variant and match arm",
        SHAPES_RS,
        """\
// ... existing code ...
pub enum Shape {
    Circle(f64),
    Square(f64),
    Rect(f64, f64),
}

// ... existing code ...
            Shape::Square(a) => a * a,
            Shape::Rect(a, b) => a * b,
        }
// ... existing code ...
""",
        ("    Square(f64),\n", "    Square(f64),\n    Rect(f64, f64),\n"),
        (
            "            Shape::Square(a) => a * a,\n",
            "            Shape::Square(a) => a * a,\n            Shape::Rect(a, b) => a * b,\n",
        ),
    ),
    applied(
        "rust method of a name that two types have",
        SHAPES_RS,
        """\
// ... existing code ...

impl Canvas {
    // ... existing code ...

    pub fn area(&self) -> f64 {
        self.shapes.iter().map(|shape| shape.area()).sum()
    }
}

// ... existing code ...
""",
        ("map(Shape::area)", "map(|shape| shape.area())"),
    ),
    applied(
        "rust method added behind a marker for the others",
        SHAPES_RS,
        """\
// ... existing code ...

impl Canvas {
    pub fn new() -> Self {
        Canvas { shapes: Vec::new() }
    }

    pub fn clear(&mut self) {
        self.shapes.clear();
    }

    // ... other methods ...
}

// ... existing code ...
""",
        (
            "    pub fn add(&mut self, shape: Shape) {",
            "    pub fn clear(&mut self) {\n        self.shapes.clear();\n    }\n\n"
            "    pub fn add(&mut self, shape: Shape) {",
        ),
    ),
    applied(
        "rust derive changed",
        SHAPES_RS,
        "use std::fmt;\n\n#[derive(Debug, Clone, PartialEq)]\npub enum Shape {\n"
        "    // ... existing variants ...\n}\n\n// ...\n",
        ("#[derive(Debug, Clone)]", "#[derive(Debug, Clone, PartialEq)]"),
    ),
]
