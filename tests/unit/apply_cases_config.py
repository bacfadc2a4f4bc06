"""Shows lazy edits of JSON, YAML, CSS, HTML and Markdown files, with the answer or the refusal that each must get."""

from __future__ import annotations

from tests.unit.apply_cases import applied, refused

PACKAGE = """\
{
  "name": "shop",
  "version": "1.2.0",
  "scripts": {
    "build": "tsc -p .",
    "test": "vitest run",
    "lint": "eslint ."
  },
  "dependencies": {
    "express": "^4.18.0",
    "zod": "^3.22.0"
  },
  "devDependencies": {
    "typescript": "^5.4.0"
  }
}
"""
DEPLOY = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
spec:
  replicas: 2
  template:
    spec:
      containers:
        - name: web
          image: shop/web:1.2
          ports:
            - containerPort: 8080
          env:
            - name: MODE
              value: production
        - name: worker
          image: shop/worker:1.2
          env:
            - name: MODE
              value: production
"""
THEME = """\
:root {
  --accent: #336699;
  --gap: 8px;
}

.button {
  color: white;
  background: var(--accent);
  padding: var(--gap);
}

.button:hover {
  opacity: 0.8;
}

.card {
  color: black;
  padding: var(--gap);
}

@media (max-width: 600px) {
  .card {
    padding: 4px;
  }
}
"""
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>Shop</title>
  <link rel="stylesheet" href="theme.css">
</head>
<body>
  <nav>
    <a href="/">Home</a>
    <a href="/cart">Cart</a>
  </nav>
  <main>
    <h1>Welcome</h1>
    <p>Everything is on sale.</p>
  </main>
  <footer>
    <p>Open all day.</p>
  </footer>
</body>
</html>
"""
README = """\
# Shop

A small shop.

## Install

1. Clone the repository.
2. Run `npm install`.

## Usage

Start it with `npm start` and open http://localhost:8080.

## License

MIT
"""
CASES = [
    applied(
        "json version changed",
        PACKAGE,
        '{\n  "name": "shop",\n  "version": "1.3.0",\n  // ... existing code ...\n}\n',
        ('"version": "1.2.0"', '"version": "1.3.0"'),
    ),
    applied(
        "json dependency added behind the last one",
        PACKAGE,
        """\
{
  // ... existing code ...
  "dependencies": {
    "express": "^4.18.0",
    "zod": "^3.22.0",
    "pino": "^9.0.0"
  },
  // ... existing code ...
}
""",
        ('    "zod": "^3.22.0"\n', '    "zod": "^3.22.0",\n    "pino": "^9.0.0"\n'),
    ),
    applied(
        "json script replaced, marker in between",
        PACKAGE,
        """\
{
  ...
  "scripts": {
    "build": "tsc -p . --noEmit false",
    // ... other scripts ...
    "lint": "eslint . --fix"
  },
  // ... rest of file ...
}
""".replace("  ...\n", "  // ...\n", 1),
        ('"tsc -p ."', '"tsc -p . --noEmit false"'),
        ('"eslint ."', '"eslint . --fix"'),
    ),
    applied("json update equal to the file", PACKAGE, PACKAGE),
    applied(
        "yaml replicas changed",
        DEPLOY,
        "# ... existing config ...\nspec:\n  replicas: 4\n  template:\n    # ... rest unchanged ...\n",
        ("replicas: 2", "replicas: 4"),
    ),
    applied(
        "yaml image of one of two containers",
        DEPLOY,
        """\
# ... existing code ...
        - name: worker
          image: shop/worker:1.3
          # ... existing code ...
""",
        ("shop/worker:1.2", "shop/worker:1.3"),
    ),
    applied(
        "yaml label added",
        DEPLOY,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: shop\n"
        "  labels:\n    app: shop\nspec:\n  # ... existing code ...\n",
        ("  name: shop\n", "  name: shop\n  labels:\n    app: shop\n"),
    ),
    refused(
        "yaml value that two containers have",
        DEPLOY,
        """\
# ... existing code ...
            - name: MODE
              value: staging
# ... existing code ...
""",
        "ambiguous",
    ),
    applied(
        "css declaration in one of several rules",
        THEME,
        """\
/* ... existing styles ... */

.button:hover {
  opacity: 0.9;
  cursor: pointer;
}

/* ... existing styles ... */
""",
        ("  opacity: 0.8;\n", "  opacity: 0.9;\n  cursor: pointer;\n"),
    ),
    applied(
        "css variable changed",
        THEME,
        ":root {\n  --accent: #993366;\n  /* ... */\n}\n\n/* rest of the file unchanged */\n",
        ("--accent: #336699;", "--accent: #993366;"),
    ),
    applied(
        "css rule between others",
        THEME,
        """\
/* ... existing code ... */
.card {
  color: black;
  padding: var(--gap);
}

.card-title {
  font-weight: bold;
}

@media (max-width: 600px) {
/* ... existing code ... */
""",
        ("@media (max-width", ".card-title {\n  font-weight: bold;\n}\n\n@media (max-width"),
    ),
    applied(
        "html link added",
        PAGE,
        """\
<!-- ... existing code ... -->
  <nav>
    <a href="/">Home</a>
    <a href="/cart">Cart</a>
    <a href="/orders">Orders</a>
  </nav>
<!-- ... existing code ... -->
""",
        ('    <a href="/cart">Cart</a>\n', '    <a href="/cart">Cart</a>\n    <a href="/orders">Orders</a>\n'),
    ),
    applied(
        "html new comment with a marker's words is kept",
        PAGE,
        """\
<!-- ... existing code ... -->
  <main>
    <!-- more offers go here... -->
    <h1>Welcome</h1>
    <p>Everything is on sale.</p>
  </main>
<!-- ... existing code ... -->
""",
        ("    <h1>Welcome</h1>\n", "    <!-- more offers go here... -->\n    <h1>Welcome</h1>\n"),
    ),
    applied(
        "html text replaced in an element",
        PAGE,
        """\
<!-- rest of the page stays the same ... -->
  <main>
    <h1>Welcome back</h1>
    <p>Everything is on sale.</p>
  </main>
<!-- rest of the page stays the same ... -->
""",
        ("<h1>Welcome</h1>", "<h1>Welcome back</h1>"),
    ),
    applied(
        "markdown step added",
        README,
        """\
<!-- ... existing text ... -->

## Install

1. Clone the repository.
2. Run `npm install`.
3. Copy `.env.example` to `.env`.

<!-- ... existing text ... -->
""",
        ("2. Run `npm install`.\n", "2. Run `npm install`.\n3. Copy `.env.example` to `.env`.\n"),
    ),
    applied(
        "markdown section before the last",
        README,
        """\
... existing text ...

Start it with `npm start` and open http://localhost:8080.

## Tests

Run `npm test`.

## License

MIT
""",
        ("## License\n", "## Tests\n\nRun `npm test`.\n\n## License\n"),
    ),
    applied(
        "markdown sentence replaced",
        README,
        "# Shop\n\nA small but honest shop.\n\n## Install\n\n<!-- ... rest of the document ... -->\n",
        ("A small shop.", "A small but honest shop."),
    ),
]
