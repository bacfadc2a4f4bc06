"""Shows lazy edits of JavaScript files, with the answer or the refusal that each must get."""

from __future__ import annotations

from tests.unit.apply_cases import applied, refused

CART = """\
const express = require('express');
const { Cart } = require('./cart');

const router = express.Router();

router.get('/cart', (req, res) => {
  const cart = Cart.of(req.session);
  res.json(cart.items);
});

router.post('/cart', (req, res) => {
  const cart = Cart.of(req.session);
  cart.add(req.body.item);
  res.status(201).json(cart.items);
});

router.delete('/cart/:id', (req, res) => {
  const cart = Cart.of(req.session);
  cart.remove(req.params.id);
  res.sendStatus(204);
});

module.exports = router;
"""
CASES = [
    applied(
        "javascript statement in one of three handlers",
        CART,
        """\
// ... existing code ...

router.post('/cart', (req, res) => {
  const cart = Cart.of(req.session);
  if (!req.body.item) {
    return res.sendStatus(400);
  }
  cart.add(req.body.item);
  res.status(201).json(cart.items);
});

// ... existing code ...
""",
        (
            "  cart.add(req.body.item);\n",
            "  if (!req.body.item) {\n    return res.sendStatus(400);\n  }\n  cart.add(req.body.item);\n",
        ),
    ),
    applied(
        "javascript handler appended before the export",
        CART,
        """\
/* ... rest of the code ... */

router.put('/cart', (req, res) => {
  res.sendStatus(405);
});

module.exports = router;
""",
        (
            "\nmodule.exports = router;",
            "\nrouter.put('/cart', (req, res) => {\n  res.sendStatus(405);\n});\n\nmodule.exports = router;",
        ),
    ),
    applied(
        "javascript handler deleted between its neighbours",
        CART,
        """\
// ... existing code ...
  res.status(201).json(cart.items);
});

module.exports = router;
""",
        (
            """\
router.delete('/cart/:id', (req, res) => {
  const cart = Cart.of(req.session);
  cart.remove(req.params.id);
  res.sendStatus(204);
});

""",
            "",
        ),
    ),
    refused(
        "javascript marker inside a handler",
        CART,
        """\
// ... existing code ...

router.delete('/cart/:id', requireUser, (req, res) => {
  // ... existing code ...
  cart.remove(req.params.id);
  log.info('removed', req.params.id);
  res.sendStatus(204);
});

// ... existing code ...
""",
        "no_anchor",
        "ambiguous",
    ),
    refused(
        "javascript line that three handlers have",
        CART,
        """\
// ... existing code ...
  const cart = Cart.of(req.session);
  cart.touch();
// ... existing code ...
""",
        "ambiguous",
    ),
]
