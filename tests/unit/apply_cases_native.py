"""Shows lazy edits of C and C++ files, with the answer or the refusal that each must get."""

from __future__ import annotations

from tests.unit.apply_cases import applied

LIST_C = """\
#include <stdio.h>
#include <stdlib.h>

struct node {
    int value;
    struct node *next;
};

static struct node *push(struct node *head, int value)
{
    struct node *made = malloc(sizeof *made);
    made->value = value;
    made->next = head;
    return made;
}

static void show(const struct node *head)
{
    for (; head; head = head->next)
        printf("%d\\n", head->value);
}

int main(void)
{
    struct node *list = NULL;
    list = push(list, 1);
    list = push(list, 2);
    show(list);
    return 0;
}
"""
QUEUE_CPP = """\
#include <mutex>
#include <queue>

template <typename T>
class Queue {
public:
    void push(T item) {
        std::lock_guard<std::mutex> held(mutex_);
        items_.push(std::move(item));
    }

    void push(T item, int copies) {
        for (int i = 0; i < copies; ++i) {
            push(item);
        }
    }

    bool pop(T& out) {
        std::lock_guard<std::mutex> held(mutex_);
        if (items_.empty()) {
            return false;
        }
        out = std::move(items_.front());
        items_.pop();
        return true;
    }

private:
    std::mutex mutex_;
    std::queue<T> items_;
};
"""
CASES = [
    applied(
        "c checked allocation",
        LIST_C,
        """\
/* ... existing code ... */

static struct node *push(struct node *head, int value)
{
    struct node *made = malloc(sizeof *made);
    if (!made)
        abort();
    made->value = value;
    /* ... existing code ... */
}

/* ... existing code ... */
""",
        ("malloc(sizeof *made);\n", "malloc(sizeof *made);\n    if (!made)\n        abort();\n"),
    ),
    applied(
        "c function between two others",
        LIST_C,
        """\
// ... existing code ...
        printf("%d\\n", head->value);
}

static int length(const struct node *head)
{
    int count = 0;
    for (; head; head = head->next)
        count++;
    return count;
}

int main(void)
// ... existing code ...
""",
        (
            "int main(void)\n",
            "static int length(const struct node *head)\n{\n    int count = 0;\n    for (; head; head = head->next)\n"
            "        count++;\n    return count;\n}\n\nint main(void)\n",
        ),
    ),
    applied(
        "c include and a call, one edit deletes",
        LIST_C,
        """\
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ... rest of the code unchanged ...

int main(void)
{
    struct node *list = NULL;
    list = push(list, 2);
    show(list);
    return 0;
}
""",
        ("#include <stdlib.h>\n", "#include <stdlib.h>\n#include <string.h>\n"),
        ("    list = push(list, 1);\n", ""),
    ),
    applied(
        "cpp one of two overloads",
        QUEUE_CPP,
        """\
// ... existing code ...

    void push(T item, int copies) {
        if (copies < 0) {
            throw std::invalid_argument("copies");
        }
        for (int i = 0; i < copies; ++i) {
            push(item);
        }
    }

// ... existing code ...
""",
        (
            "    void push(T item, int copies) {\n",
            "    void push(T item, int copies) {\n"
            '        if (copies < 0) {\n            throw std::invalid_argument("copies");\n        }\n',
        ),
    ),
    applied(
        "cpp member added at the end of the class",
        QUEUE_CPP,
        """\
// ... existing code ...
private:
    std::mutex mutex_;
    std::queue<T> items_;
    bool closed_ = false;
};
""",
        ("    std::queue<T> items_;\n", "    std::queue<T> items_;\n    bool closed_ = false;\n"),
    ),
    applied(
        "cpp third overload is no doubled definition",
        QUEUE_CPP,
        """\
// ... existing code ...
            push(item);
        }
    }

    void push(T item, long copies) {
        push(item, static_cast<int>(copies));
    }

    bool pop(T& out) {
// ... existing code ...
""",
        (
            "    bool pop(T& out) {\n",
            "    void push(T item, long copies) {\n        push(item, static_cast<int>(copies));\n    }\n\n"
            "    bool pop(T& out) {\n",
        ),
    ),
]
