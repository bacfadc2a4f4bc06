"""Shows lazy edits of TypeScript and TSX files, with the answer or the refusal that each must get."""

from __future__ import annotations

from tests.unit.apply_cases import applied, refused

STORE = """\
import { readFile } from 'node:fs/promises';

export interface User {
  id: string;
  name: string;
}

export interface Options {
  path: string;
  retries?: number;
}

export class Store {
  private users = new Map<string, User>();

  constructor(private readonly options: Options) {}

  async load(): Promise<void> {
    const text = await readFile(this.options.path, 'utf8');
    for (const user of JSON.parse(text) as User[]) {
      this.users.set(user.id, user);
    }
  }

  get(id: string): User | undefined {
    return this.users.get(id);
  }

  get size(): number {
    return this.users.size;
  }
}

export function greet(user: User): string {
  return `Hello ${user.name}`;
}
"""
PANEL = """\
import React, { useState } from 'react';
import { Button } from './Button';

type Props = {
  title: string;
  onClose: () => void;
};

export function Panel({ title, onClose }: Props) {
  const [open, setOpen] = useState(true);

  if (!open) {
    return null;
  }

  return (
    <section className="panel">
      <header>
        <h2>{title}</h2>
        <Button onClick={() => setOpen(false)}>Hide</Button>
      </header>
      <footer>
        <Button onClick={onClose}>Close</Button>
      </footer>
    </section>
  );
}
"""
CASES = [
    applied(
        "typescript interface field added",
        STORE,
        """\
// ... existing code ...

export interface User {
  id: string;
  name: string;
  email?: string;
}

// ... existing code ...
""",
        ("  name: string;\n", "  name: string;\n  email?: string;\n"),
    ),
    applied(
        "typescript method appended, marker without dots",
        STORE,
        """\
// rest of the code remains the same
  get size(): number {
    return this.users.size;
  }

  has(id: string): boolean {
    return this.users.has(id);
  }
}

// rest of the code remains the same
""",
        (
            "    return this.users.size;\n  }\n",
            "    return this.users.size;\n  }\n\n  has(id: string): boolean {\n    return this.users.has(id);\n  }\n",
        ),
    ),
    applied(
        "typescript header and body replaced",
        STORE,
        """\
// ...

export function greet(user: User, polite = false): string {
  return polite ? `Good day, ${user.name}` : `Hello ${user.name}`;
}
""",
        ("greet(user: User): string", "greet(user: User, polite = false): string"),
        ("return `Hello ${user.name}`;", "return polite ? `Good day, ${user.name}` : `Hello ${user.name}`;"),
    ),
    applied(
        "typescript two edits and three markers",
        STORE,
        """\
import { readFile } from 'node:fs/promises';
import { z } from 'zod';

// ... existing code ...

  async load(): Promise<void> {
    const text = await readFile(this.options.path, 'utf8');
    for (const user of Users.parse(JSON.parse(text))) {
      this.users.set(user.id, user);
    }
  }

  // ... existing code ...
""",
        ("'node:fs/promises';\n", "'node:fs/promises';\nimport { z } from 'zod';\n"),
        ("JSON.parse(text) as User[]", "Users.parse(JSON.parse(text))"),
    ),
    applied(
        "typescript new comment that ends in dots beside a marker's words",
        STORE,
        """\
// ... existing code ...

  get(id: string): User | undefined {
    // look it up in the cache first...
    return this.users.get(id);
  }

  // ... existing code ...
""",
        (
            "    return this.users.get(id);\n",
            "    // look it up in the cache first...\n    return this.users.get(id);\n",
        ),
    ),
    applied(
        "tsx state and element added",
        PANEL,
        """\
// ... existing code ...

export function Panel({ title, onClose }: Props) {
  const [open, setOpen] = useState(true);
  const [busy, setBusy] = useState(false);

  // ... existing code ...

      <footer>
        {/* ... existing code ... */}
        <Button onClick={() => setBusy(true)} disabled={busy}>Save</Button>
      </footer>
    </section>
  );
}
""",
        ("useState(true);\n", "useState(true);\n  const [busy, setBusy] = useState(false);\n"),
        (
            "        <Button onClick={onClose}>Close</Button>\n",
            "        <Button onClick={onClose}>Close</Button>\n"
            "        <Button onClick={() => setBusy(true)} disabled={busy}>Save</Button>\n",
        ),
    ),
    applied(
        "tsx property type changed",
        PANEL,
        """\
// ... imports ...

type Props = {
  title: React.ReactNode;
  onClose: () => void;
};

// ... rest of the component ...
""",
        ("title: string;", "title: React.ReactNode;"),
    ),
    applied(
        "tsx elements wrapped",
        PANEL,
        """\
{/* ... existing code ... */}
      <footer>
        <div className="actions">
          <Button onClick={onClose}>Close</Button>
        </div>
      </footer>
    </section>
  );
}
""",
        (
            "        <Button onClick={onClose}>Close</Button>\n",
            '        <div className="actions">\n          <Button onClick={onClose}>Close</Button>\n        </div>\n',
        ),
    ),
    applied(
        "tsx block of code without any marker",
        PANEL,
        """\
  if (!open) {
    return <Button onClick={() => setOpen(true)}>Show</Button>;
  }
""",
        ("    return null;\n", "    return <Button onClick={() => setOpen(true)}>Show</Button>;\n"),
    ),
    applied("typescript update equal to the file", STORE, STORE),
    refused(
        "typescript update for another file",
        STORE,
        """\
// ... existing code ...
  @Input() label = '';
  @Output() picked = new EventEmitter<Item>();

  pick(item: Item) {
    this.picked.emit(item);
  }
// ... existing code ...
""",
        "no_anchor",
        "foreign_update",
        "invalid_result",
    ),
    refused(
        "typescript class left out before its new method",
        STORE,
        """\
// ... existing code ...

  clear(): void {
    this.users.clear();
  }

// ... existing code ...
""",
        "no_anchor",
        "foreign_update",
        "invalid_result",
    ),
]
