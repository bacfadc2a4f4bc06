"""Decides what the page of a job shows: one HTML file that loads nothing, made of the job's row, events and manifest.

All that came from users (labels, names, messages) is escaped, and the page forbids its own reader's browser to load or
run anything.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from typing import Any

from reflexd import report_plots as plots

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6470;--paper:#fff;--line:#d8dde3;--box:#f5f7f9;--blue:#2563c9;
--red:#c0392b;--amber:#8a5a00;--on:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa4b0;--paper:#14171b;--line:#333a43;--box:#1d2127;
--blue:#6ea3f5;--red:#f0806f;--amber:#e5b566;--on:#14171b}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:64rem;padding:2rem 1.25rem 4rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;margin:0}h2{font-size:1.125rem;margin:2.5rem 0 .75rem}
p{margin:.5rem 0}.soft{color:var(--soft)}.wrong{color:var(--red)}
.score{font-size:3rem;font-weight:600;line-height:1.1;margin:1.5rem 0 0;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.3rem .9rem .3rem 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:anywhere}
th{color:var(--soft);font-weight:500}.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.scroll{overflow-x:auto}.warning{background:var(--box);border-left:4px solid var(--amber);padding:.7rem 1rem;
margin:.6rem 0;overflow-wrap:anywhere}
svg{display:block;max-width:none;font:12px system-ui,sans-serif}svg text{fill:var(--soft)}
.bar,.dot{fill:var(--blue)}.bar{opacity:.35}.line{fill:none;stroke:var(--blue);stroke-width:2}
.guide{stroke:var(--line);fill:none}.frame{fill:none;stroke:var(--line)}.cell{fill:var(--box)}
.hit{fill:var(--blue)}.miss{fill:var(--red)}svg .count{fill:var(--ink)}svg .count.on{fill:var(--on)}
"""
SHOWN_EVENTS = 200
HELD_OUT = "No row was scored by a classifier that had seen it; the one that is served was then trained on all rows."


def render(job: dict[str, Any], events: Sequence[dict[str, Any]], manifest: dict[str, Any] | None = None) -> str:
    """Return the page of a job in any status; `events` are oldest first, `manifest` is its model's, less `result`."""
    result = job["result"] or {}
    name = job["suffix"] or job["id"]
    sections = [
        _head(job, name),
        _score(result),
        _warnings(result, events),
        _per_label(result),
        _confusion(result, job["labels"]),
        _calibration(result),
        _training(job, events),
        _about(job, manifest),
        _events(events),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(name)} – reflexd</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )


def _head(job: dict[str, Any], name: str) -> str:
    took = ""
    if job["finished_at"] is not None:
        took = f", {job['finished_at'] - job['created_at']} s after it was created"
    status = "paused" if job["paused"] else job["status"]
    parts = [f"<h1>{escape(name)}</h1>", f'<p class="soft">{escape(job["id"])} · {escape(status)}{took}</p>']
    if job["error"]:
        where = f" ({job['error']['param']})" if job["error"].get("param") else ""
        parts.append(f'<p class="wrong">{escape(job["error"]["message"] + where)}</p>')
    if job["result"] is None and job["error"] is None:
        parts.append("<p>There is no score: the job has not been trained to its end.</p>")
    return "\n".join(parts)


def _score(result: dict[str, Any]) -> str:
    if not result:
        return ""
    if result["accuracy"] is None:
        return f"<p>There is no honest score ({escape(result['method'])}).</p>"
    low, high = result["interval"]
    several = "accuracy_of" in result
    of = f" of {result['accuracy_of']}" if several else ""
    given = result["method"] == "validation_file"
    rows_said = "rows of the validation file" if given else f"held-out rows ({result['method']})"
    said = (
        f"{result['n']} {rows_said}. Accuracy{of} {result['accuracy']:.3f}, 95 % interval "
        f"{low:.3f} to {high:.3f}. Macro-F1 {_number(result['f1_score'])}."
    )
    shown = "f1_score" if several else "accuracy"
    parts = [
        f'<p class="score">{_number(result[shown])}</p>',
        f"<p>{'macro-F1' if several else 'accuracy'} on {escape(said)}</p>",
        f'<p class="soft">{_validated(result) if given else HELD_OUT}</p>',
    ]
    interval = None if several else (low, high)
    rows: list[tuple[str, float, tuple[float, float] | None]] = [("this classifier", result[shown] or 0.0, interval)]
    baseline = result.get("baseline", {})
    if baseline.get("tfidf"):
        rows.append(("TF-IDF + regression", baseline["tfidf"][shown] or 0.0, None))
    if not several and baseline.get("majority") is not None:
        rows.append(("always the commonest", baseline["majority"], None))
    return "\n".join(parts) + f'<div class="scroll">{plots.scale(rows)}</div>'


def _validated(result: dict[str, Any]) -> str:
    before = result["cross_validated"]
    said = "The classifier that is served was scored on them, and trained on none of them."
    if before["accuracy"] is None:
        return said
    return f"{said} On held-out rows of its own ({escape(before['method'])}) the accuracy was {before['accuracy']:.3f}."


def _warnings(result: dict[str, Any], events: Sequence[dict[str, Any]]) -> str:
    given = result.get("warnings") or []
    told = {warning["message"] for warning in given}
    others = [event["message"] for event in events if event["level"] != "info" and event["message"] not in told]
    if not given and not others:
        return ""
    parts = ["<h2>What to look at</h2>"]
    for warning in given:
        rows = ", ".join(str(row) for row in warning["rows"])
        labels = ", ".join(warning["labels"])
        more = f"<br>Rows (counted from 0): {escape(rows)}" if rows else ""
        more += f"<br>Labels: {escape(labels)}" if labels else ""
        parts.append(
            f'<div class="warning">{escape(warning["message"])}<span class="soft">{more}'
            f"<br>{escape(warning['code'])}</span></div>"
        )
    parts += [f'<div class="warning">{escape(message)}</div>' for message in others]
    return "\n".join(parts)


def _per_label(result: dict[str, Any]) -> str:
    if not result.get("per_label"):
        return ""
    rows = [
        [label, *(_number(found[key]) for key in ("precision", "recall", "f1_score")), str(found["n"])]
        for label, found in sorted(result["per_label"].items(), key=lambda item: (item[1]["f1_score"], item[0]))
    ]
    left_out = result.get("per_label_left_out", 0)
    more = f'<p class="soft">{left_out} labels that do better are left out.</p>' if left_out else ""
    return (
        "<h2>By label, worst first</h2>" + _table(["label", "precision", "recall", "F1", "held-out rows"], rows) + more
    )


def _confusion(result: dict[str, Any], labels: Sequence[str]) -> str:
    found = result.get("confusion")
    if not found:
        return ""
    parts = ["<h2>What is taken for what</h2>"]
    if found["matrix"] is not None and len(found["matrix"]) == len(labels):
        parts.append('<p class="soft">Lines are true labels, columns are predictions.</p>')
        parts.append(f'<div class="scroll">{plots.heat_map(found["matrix"], labels)}</div>')
    elif found["pairs"]:
        rows = [[pair["truth"], pair["predicted"], str(pair["n"])] for pair in found["pairs"]]
        parts.append(_table(["true label", "read as", "rows"], rows))
        if found["pairs_left_out"]:
            parts.append(f'<p class="soft">{found["pairs_left_out"]} rarer pairs are left out.</p>')
    else:
        parts.append("<p>No held-out row was read wrongly.</p>")
    return "\n".join(parts)


def _calibration(result: dict[str, Any]) -> str:
    if not result.get("reliability"):
        return ""
    return (
        "<h2>What a confidence is worth</h2>"
        f"<p>Expected calibration error {_number(result['ece'])}: so far are confidences from what comes true, on "
        "average. A disc on the diagonal says what it is; one below it is too sure.</p>"
        f'<div class="scroll">{plots.reliability(result["reliability"])}</div>'
    )


def _training(job: dict[str, Any], events: Sequence[dict[str, Any]]) -> str:
    losses = [event["data"] for event in events if event["type"] == "metrics" and "train_loss" in event["data"]]
    early = [event for event in events if "early_accuracy" in event["data"]]
    parts = []
    if early:
        after = early[0]["created_at"] - job["created_at"]
        score = _number(early[0]["data"]["early_accuracy"])
        known = f"The held-out accuracy of {score} with the encoder as it came was known"
        parts.append(f"<p>{known} {after} s after the job was created.</p>")
    if losses:
        curve = plots.curve([(point["step"], point["train_loss"]) for point in losses], "training loss")
        parts.append(f'<div class="scroll">{curve}</div>')
    return "<h2>Training</h2>" + "\n".join(parts) if parts else ""


def _about(job: dict[str, Any], manifest: dict[str, Any] | None) -> str:
    base = job["base_model"]
    if base and job["base_model_version"] is not None:
        base = f"{base}, version {job['base_model_version']}"
    rows = [
        ["labels", f"{len(job['labels'])} ({job['mode']})"],
        ["rows", str(job["trained_examples"])],
        ["tokens", str(job["trained_tokens"]) if job["trained_tokens"] is not None else "not read"],
        ["started from", base or "no other model"],
        ["seed", str(job["seed"])],
        ["source", job["source"]],
        ["created", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(job["created_at"]))],
    ]
    if manifest is not None:
        backbone = manifest["backbone"]
        domain = manifest.get("in_domain")
        rows += [
            ["encoder", f"{backbone['name']} ({backbone['precision']}, {backbone['width']} wide)"],
            ["adapter", str(manifest["adapter"]) if manifest.get("adapter") else "none: the encoder is as it came"],
            ["in_domain", f"{domain['method']}, measured on {domain['rows']} rows" if domain else "none"],
            ["calibration", f"{manifest['calibration']['method']}, {manifest['calibration']['rows']} rows"],
            ["rows' SHA-256", manifest["data_sha256"]],
            ["made with", ", ".join(f"{name} {version}" for name, version in manifest["packages"].items())],
        ]
        rows += [[f"lineage: {name}", str(value)] for name, value in (manifest.get("lineage") or {}).items()]
    return "<h2>What it is</h2>" + _table([], rows)


def _events(events: Sequence[dict[str, Any]]) -> str:
    if not events:
        return ""
    rows = [
        [time.strftime("%H:%M:%S", time.gmtime(event["created_at"])), event["level"], event["message"]]
        for event in events[-SHOWN_EVENTS:]
    ]
    left_out = len(events) - len(rows)
    more = f'<p class="soft">{left_out} earlier events are left out.</p>' if left_out > 0 else ""
    return "<h2>Events</h2>" + more + _table(["UTC", "level", "message"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; columns of numbers stand to the right where the table has a head."""
    right = [bool(head) and all(_is_number(row[column]) for row in rows) for column in range(len(rows[0]))]
    kinds = [' class="n"' if numbers else "" for numbers in right]
    titles = "".join(f"<th{kind}>{escape(title)}</th>" for kind, title in zip(kinds, head, strict=False))
    lines = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table>{f"<tr>{titles}</tr>" if head else ""}{lines}</table></div>'


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).isdecimal()


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
