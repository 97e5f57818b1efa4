"""The results as one table to read: every figure with its floor behind it in brackets. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HEAD = ("check", "stage", "status", "rollout s", "tokens/s", "rows s", "update s", "step s", "MFU", "peak GiB (plan)")


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Markdown. What was not measured is a dash."""
    rows = [HEAD, tuple("---" for _ in HEAD), *(_row(line) for line in lines if line["check"] != "machine")]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEAD))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def _row(line: dict[str, Any]) -> tuple[str, ...]:
    seconds, floors = line.get("seconds") or {}, line.get("floors") or {}
    peak, plan = line.get("peak_gib") or {}, line.get("plan_gib") or {}
    fastest = line["new_tokens"] / floors["rollout"] if floors.get("rollout") else None
    return (
        line["check"],
        line.get("stage", "-"),
        line["status"],
        _with(seconds.get("rollout"), floors.get("rollout")),
        _with(line.get("tokens_per_s"), fastest, digits=0),
        _with(seconds.get("rows"), floors.get("rows")),
        _with(seconds.get("update"), floors.get("update")),
        _with(seconds.get("step"), None),
        f"{100 * line['mfu']:.0f}%" if line.get("mfu") else "-",
        ", ".join(
            f"{part} {peak[part]:.1f}" + (f" ({plan[name]:.1f})" if name in plan else "")
            for part, name in (("rollout", "rollout"), ("rows", "scoring"), ("update", "update"))
            if part in peak
        )
        or "-",
    )


def _with(value: float | None, floor: float | None, digits: int = 2) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" + (f" ({floor:.{digits}f})" if floor is not None else "")


def machine(line: dict[str, Any]) -> str:
    """The card, its peak rates and what two simple programs reach of them; the versions."""
    versions = ", ".join(f"{name} {number}" for name, number in line["versions"].items())
    if line["card"] is None:
        return f"no GPU: {line['processor']}, Python {line['python']}\n{versions}"
    if line["peak_tflops"] is None:
        peaks = "a card whose peak rates are not in src/vision_zero/plan/cards.yaml: no floors and no MFU"
    else:
        peaks = f"peak {line['peak_tflops']:.0f} TFLOP/s and {line['peak_gb_per_s']:.0f} GB/s"
    reached = f"a matrix product reaches {line['matmul_tflops']:.0f} TFLOP/s, a copy {line['copy_gb_per_s']:.0f} GB/s"
    return f"{line['card']}, {line['memory_gib']:.1f} GiB, {peaks}; {reached}\nPython {line['python']}, {versions}"
