"""Results of `train_throughput.py` as Markdown tables, put into a page between two marks."""

from typing import Any

from levers import LEVERS, Row, available, cumulative, one_off

from sdcxr.runtime.errors import UserError

BEGIN, END = "<!-- throughput: begin -->", "<!-- throughput: end -->"
PRECISION = {"cpu": "fp32", "cuda": "fp32 (convolutions in TF32, torch's default)"}


def insert(page: str, tables: str, begin: str = BEGIN, end: str = END) -> str:
    """The page with the text between two marks replaced.

    Raises:
        UserError: the marks are missing or in the wrong order.
    """
    before, found, rest = page.partition(begin)
    _, last, after = rest.partition(end)
    if not found or not last:
        raise UserError(f"the page needs a line {begin} and below it a line {end}, between which the tables go")
    return f"{before}{begin}\n\n{tables.strip()}\n\n{end}{after}"


def render(records: list[dict[str, Any]]) -> str:
    """All results: a section for each piece of hardware and each benchmark on it."""
    return "\n\n".join(section(record, benchmark) for record in records for benchmark in record["throughput"])


def section(record: dict[str, Any], benchmark: dict[str, Any]) -> str:
    """Heading, command, the two tables."""
    device, batch = benchmark["device"], benchmark["batch_size"]
    threads = f", threads: {benchmark['threads']}" if device == "cpu" else ""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    parts = [
        f"### {record['hardware']}: {benchmark['arch']}, {benchmark['resolution']} px, {benchmark['tune']}",
        f"`{benchmark['command']}`\n({versions}{threads}; naive is {PRECISION.get(device, 'fp32')})",
    ]
    measured = {(frozenset(row["levers"]), row["batch_size"]): row for row in benchmark["rows"]}
    for title, rows in (
        (f"Levers switched on one after the other, {batch} images a step:", cumulative(device, batch)),
        ("Everything on, and one lever off:", one_off(device, batch)),
    ):
        lines = table(rows, measured)
        if len(lines) > 3:  # more than the first row
            parts += [title, "\n".join(lines)]
    if absent := [lever.label for lever in LEVERS if lever not in available(device)]:
        parts.append(f"Left out, because they do not apply or do not pay on this kind of device: {', '.join(absent)}.")
    return "\n\n".join(parts)


def table(rows: list[Row], measured: dict[tuple[frozenset[str], int], dict[str, Any]]) -> list[str]:
    """Lines of a Markdown table: those rows that have been measured, compared with the first of them."""
    lines = [
        "| | images/s | × first row | TFLOP/s | MFU | waiting for data | peak memory, GB |",
        "|-|-:|-:|-:|-:|-:|-:|",
    ]
    first = None
    for row in rows:
        values = measured.get((row.levers, row.batch_size))
        if values is None:
            continue
        if "error" in values:
            lines.append(f"| {row.label} | {values['error']} | | | | | |")
            continue
        rate = values["images_per_s"]
        first = first or rate
        lines.append(
            f"| {row.label} | {rate:,.1f} | {rate / first:.2f} | {_figure(values['tflops_per_s'])} "
            f"| {_share(values['mfu'])} | {_share(values['data_wait'])} | {_figure(values['peak_memory_gb'])} |"
        )
    return lines


def _figure(value: float | None) -> str:
    """Three significant digits, without an exponent; a dash where nothing is known."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
