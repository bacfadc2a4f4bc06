"""Decides how CSV in the request becomes training rows: {"csv": {"text": "text,label\\nIt crashes,bug\\n..."}}."""

import csv
import io
from typing import Any

from reflexd import Example, InvalidInput, hookimpl


class CSVSource:
    name = "csv"

    def check(self, payload: Any, labels: Any) -> list[Example]:
        try:
            rows: Any = csv.DictReader(io.StringIO(payload["text"], newline=""), strict=True)
            return [Example(row.pop("text"), row.pop("label"), **row) for row in rows]
        except (TypeError, KeyError, csv.Error) as error:
            raise InvalidInput(f"csv.text must be CSV with the header text,label ({error})", ".text") from error

    def rows(self, payload: Any, context: Any) -> list[Example]:
        return self.check(payload, context.labels)


@hookimpl
def register_data_sources(register: Any) -> None:
    register(CSVSource())
