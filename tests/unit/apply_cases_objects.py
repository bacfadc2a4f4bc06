"""Shows lazy edits of Java and PHP files, with the answer or the refusal that each must get."""

from __future__ import annotations

from tests.unit.apply_cases import applied, refused

MAILER_JAVA = """\
package shop.mail;

import java.util.List;

public class Mailer {
    private final Transport transport;

    public Mailer(Transport transport) {
        this.transport = transport;
    }

    public void send(String to, String text) {
        transport.deliver(to, text);
    }

    public void send(List<String> all, String text) {
        for (String to : all) {
            send(to, text);
        }
    }

    @Override
    public String toString() {
        return "Mailer(" + transport + ")";
    }
}
"""
USER_PHP = """\
<?php

namespace App;

class User
{
    private string $name;

    public function __construct(string $name)
    {
        $this->name = $name;
    }

    public function name(): string
    {
        return $this->name;
    }

    public function rename(string $name): void
    {
        $this->name = $name;
    }
}
"""
CASES = [
    applied(
        "java guard in one of two overloads",
        MAILER_JAVA,
        """\
    // ... existing code ...

    public void send(String to, String text) {
        if (to.isBlank()) {
            throw new IllegalArgumentException("to");
        }
        transport.deliver(to, text);
    }

    // ... existing code ...
""",
        (
            "        transport.deliver(to, text);\n",
            '        if (to.isBlank()) {\n            throw new IllegalArgumentException("to");\n        }\n'
            "        transport.deliver(to, text);\n",
        ),
    ),
    applied(
        "java import and method, class header as context",
        MAILER_JAVA,
        """\
package shop.mail;

import java.util.List;
import java.util.Optional;

public class Mailer {
    // ... existing code ...

    @Override
    public String toString() {
        return "Mailer(" + transport + ")";
    }

    public Optional<Transport> transport() {
        return Optional.ofNullable(transport);
    }
}
""",
        ("import java.util.List;\n", "import java.util.List;\nimport java.util.Optional;\n"),
        (
            '        return "Mailer(" + transport + ")";\n    }\n',
            '        return "Mailer(" + transport + ")";\n    }\n\n    public Optional<Transport> transport() {\n'
            "        return Optional.ofNullable(transport);\n    }\n",
        ),
    ),
    applied(
        "java constructor with one more parameter",
        MAILER_JAVA,
        """\
// ... existing imports ...

public class Mailer {
    private final Transport transport;
    private final Clock clock;

    public Mailer(Transport transport, Clock clock) {
        this.transport = transport;
        this.clock = clock;
    }

    // ... remaining methods unchanged ...
}
""",
        (
            "    private final Transport transport;\n",
            "    private final Transport transport;\n    private final Clock clock;\n",
        ),
        ("public Mailer(Transport transport) {", "public Mailer(Transport transport, Clock clock) {"),
        ("        this.transport = transport;\n", "        this.transport = transport;\n        this.clock = clock;\n"),
    ),
    refused(
        "java method that the update doubles",
        MAILER_JAVA,
        """\
public class Mailer {
    private final Transport transport;

    public void send(String to, String text) {
        transport.deliver(to, text.strip());
    }

    // ... existing code ...
}
""",
        "doubled_definition",
        "ambiguous",
    ),
    applied(
        "php method body changed",
        USER_PHP,
        """\
<?php

// ... existing code ...

    public function rename(string $name): void
    {
        if ($name === '') {
            throw new \\InvalidArgumentException('name');
        }
        $this->name = $name;
    }
}
""",
        (
            "    public function rename(string $name): void\n    {\n",
            "    public function rename(string $name): void\n    {\n        if ($name === '') {\n"
            "            throw new \\InvalidArgumentException('name');\n        }\n",
        ),
    ),
    applied(
        "php method between two others",
        USER_PHP,
        """\
// ... existing code ...
    public function name(): string
    {
        return $this->name;
    }

    public function initial(): string
    {
        return $this->name[0];
    }

    public function rename(string $name): void
// ... existing code ...
""",
        (
            "    public function rename(string",
            "    public function initial(): string\n    {\n        return $this->name[0];\n    }\n\n"
            "    public function rename(string",
        ),
    ),
]
