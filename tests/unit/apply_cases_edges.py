"""Shows edits that a new line begins or ends, meant for this file or for one of its kind."""

from __future__ import annotations

from tests.unit.apply_cases import applied, refused

MARK = "// ... existing code ...\n"
SHARP = "# ... existing code ...\n"
CACHE = """\
// Copyright 2019 The Shelf Authors. All rights reserved.
// Use of this source code is governed by a license in the LICENSE file.

#include "shelf/cache.h"

#include <vector>

#include "test/assert.h"
#include "util/coding.h"

namespace shelf {

static std::string EncodeKey(int k) {
  std::string result;
  PutFixed32(&result, k);
  return result;
}

int Capacity() {
  return 1000;
}

}  // namespace shelf
"""
FORM = """\
// Copyright 2019 The Shelf Authors. All rights reserved.
// Use of this source code is governed by a license in the LICENSE file.

package binding

import (
\t"errors"
\t"net/http"
)

type formBinding struct{}

func (formBinding) Name() string {
\treturn "form"
}

func (formBinding) Bind(req *http.Request, obj any) error {
\tif req == nil {
\t\treturn errors.New("no request")
\t}
\treturn decode(req.Form, obj)
}
"""
PAGE = """\
<h1>Plain</h1>

<h2>Nested</h2>
<pre class="nested"></pre>

<script type="module">
  import { text } from './text.js'
  text('.nested', JSON.stringify(nested))
</script>
"""
CHART = """\
apiVersion: v2
description: Counts things
type: application
version: 0.44.0
# follows: releases=counters/counter
appVersion: "v0.64.0"
home: http://counter.example
"""

CASES = [
    refused(
        "an include that is new behind a marker, as a file beside it has it",
        CACHE,
        f'{MARK}#include "util/arena.h"\n\nnamespace shelf {{\n{MARK}',
        "ambiguous",
    ),
    applied(
        "the same include behind one of the file's",
        CACHE,
        f'{MARK}#include "util/coding.h"\n#include "util/arena.h"\n\nnamespace shelf {{\n{MARK}',
        ('#include "util/coding.h"\n', '#include "util/coding.h"\n#include "util/arena.h"\n'),
    ),
    applied(
        "an include behind the file's, with nothing else around it",
        CACHE,
        f'{MARK}#include "util/coding.h"\n#include "util/arena.h"\n{MARK}',
        ('#include "util/coding.h"\n', '#include "util/coding.h"\n#include "util/arena.h"\n'),
    ),
    applied(
        "a new function before the file's one line that tells where",
        CACHE,
        f"{MARK}int Reserve() {{\n  return Capacity() / 2;\n}}\n\n}}  // namespace shelf\n",
        ("}  // namespace shelf", "int Reserve() {\n  return Capacity() / 2;\n}\n\n}  // namespace shelf"),
    ),
    refused(
        "head and first lines of a file of another package",
        FORM,
        "// Copyright 2019 The Shelf Authors. All rights reserved.\n"
        "// Use of this source code is governed by a license in the LICENSE file.\n\npackage render\n"
        f"{MARK}",
        "foreign_update",
    ),
    refused(
        "the same with an import and an end that the file has, too",
        FORM,
        f'package render\n\nimport (\n\t"errors"\n\t"fmt"\n\t"net/http"\n)\n{MARK}\treturn decode(req.Form, obj)\n}}\n',
        "foreign_update",
        "ambiguous",
    ),
    applied(
        "a file that moves to another package",
        FORM,
        f"{MARK}// Use of this source code is governed by a license in the LICENSE file.\n\npackage render\n\n"
        f'import (\n\t"errors"\n\t{MARK}',
        ("package binding", "package render"),
    ),
    refused(
        "a constant before a marker, where an import is dropped by chance",
        FORM,
        f'{MARK}package binding\n\nimport (\n\t"net/http"\n)\n\nconst memory = 32 * 1024\n{MARK}',
        "ambiguous",
        "lost_definition",
    ),
    refused(
        "paragraphs of another page before the script that every page begins with",
        PAGE,
        f'<!-- {MARK[3:-1]} -->\n<p>spread: <code class="spread"></code></p>\n<p>import: <code class="import"></code>'
        f'</p>\n\n<script type="module">\n<!-- {MARK[3:-1]} -->\n',
        "ambiguous",
    ),
    applied(
        "paragraphs between two lines of this page",
        PAGE,
        f'<!-- {MARK[3:-1]} -->\n<pre class="nested"></pre>\n<p>spread: <code class="spread"></code></p>\n\n'
        f'<script type="module">\n  <!-- {MARK[3:-1]} -->\n',
        ('class="nested"></pre>\n', 'class="nested"></pre>\n<p>spread: <code class="spread"></code></p>\n'),
    ),
    refused(
        "a version and a comment of another chart before a marker",
        CHART,
        f"{SHARP}type: application\nversion: 8.0.0\n# follows: releases=state/metrics\n{SHARP}",
        "ambiguous",
    ),
    applied(
        "a version between two lines of the chart",
        CHART,
        f"{SHARP}type: application\nversion: 0.45.0\n# follows: releases=counters/counter\n{SHARP}",
        ("0.44.0", "0.45.0"),
    ),
    applied(
        "a version beside a marker, which its key tells",
        CHART,
        f"{SHARP}type: application\nversion: 0.45.0\n{SHARP}",
        ("0.44.0", "0.45.0"),
    ),
    refused(
        "lines of another file without a marker, one of which this one has",
        CACHE,
        "int Size() { return 10; }\n\nint Capacity() {\n  return 1;\n}\n\nint Used() { return 3; }\n",
        "no_anchor",
        "ambiguous",
    ),
]
