"""The table of a grid, as Markdown, LaTeX, and a table of the report."""

from collections.abc import Sequence, Set
from pathlib import Path

from ablation.cells import Plan
from ablation.estimates import Estimate, Rank
from ablation.results import Arms, Difference, Key
from eval.summary.blocks import Table
from eval.summary.measures import label_name, short, with_arrow
from eval.summary.plots import decimals, number, value_text
from sdcxr.io.files import write_text

MARKDOWN, LATEX = "table.md", "table.tex"
BEST = "bold: better than every other row, also by the interval of its rank"
RANK = "rank of the mean, 1 for the best, with the 95 % interval of the rank in the population of seeds and prompts"
HOLM = "*: p < 0.05 after Holm's correction for {n} comparisons with {baseline}"
SPREAD = "±: standard deviation over {n} seeds"
SIGNIFICANT = 0.05
ESCAPES = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "−": "$-$", "↑": r"$\uparrow$"}
ESCAPES |= {"↓": r"$\downarrow$", "×": r"$\times$", "→": r"$\to$", "<": "$<$", ">": "$>$"}


def column_name(key: Key) -> str:
    """A metric in words, with network and label where it is of some."""
    _, variant, metric, label, *_ = key
    more = [short(variant)] if variant else []
    more += [label_name(label)] if label and label != "macro" else []
    return with_arrow(metric) + (f" ({', '.join(more)})" if more else "")


def values_table(arms: Arms) -> tuple[Table, set[tuple[int, int]]]:
    """Mean ± deviation over seeds of each arm and metric; also the places (row, column) of the best values."""
    header, best, rows = ["cell", *map(column_name, arms.columns)], set(), []
    winners = {key: arms.best(key) for key in arms.columns}
    for i, arm in enumerate(arms.cells):
        cells = [arm]
        for j, key in enumerate(arms.columns, start=1):
            found = arms.estimate(arm, key)
            cells.append("" if found is None else mean_text(found))
            if winners[key] == arm:
                best.add((i, j))
        rows.append(cells)
    return Table(header, rows, range(1, len(header)), title="Values"), best


def mean_text(found: Estimate) -> str:
    """Mean and standard deviation with the decimals of the deviation."""
    if found.sd is None:
        return number(found.value)
    digits = max(decimals(found.value), min(4, decimals(found.sd)) if found.sd else 0)
    return f"{found.value:,.{digits}f} ± {found.sd:.{digits}f}".replace("-", "−")


def differences_table(arms: Arms, differences: Sequence[Difference]) -> Table:
    """Difference to the baseline with its interval of each arm and metric."""
    cells = {(one.arm, one.key): difference_text(one) for one in differences}
    rows = [[arm, *(cells.get((arm, key), "") for key in arms.columns)] for arm in arms.cells if arm != arms.baseline]
    header = ["cell", *map(column_name, arms.columns)]
    return Table(header, rows, range(1, len(header)), title=f"Difference to {arms.baseline}")


def ranks_table(arms: Arms) -> Table:
    """Rank with its interval of each arm in each metric that has a direction."""
    keys = [key for key in arms.columns if key in arms.ranks]
    rows = [[arm, *(rank_text(arms.ranks[key].get(arm)) for key in keys)] for arm in arms.cells]
    return Table(["cell", *map(column_name, keys)], rows, range(1, len(keys) + 1), title="Ranks")


def rank_text(rank: Rank | None) -> str:
    """A rank with its interval; empty where there is none."""
    return "" if rank is None else f"{rank.value} ({rank.low} to {rank.high})"


def difference_text(one: Difference) -> str:
    """A difference with its interval, and a star where it stands Holm's correction."""
    star = "*" if one.p_holm is not None and one.p_holm < SIGNIFICANT else ""
    return value_text(one.estimate.value, one.estimate.low, one.estimate.high) + star


def notes(arms: Arms, differences: Sequence[Difference]) -> list[str]:
    """What the marks mean, and what the intervals do not cover."""
    counts = sorted({len(seeds) for seeds in arms.cells.values()})
    found = [SPREAD.format(n=" or ".join(map(str, counts)))] if counts and counts[-1] > 1 else []
    found += [BEST, RANK] if arms.ranks else []
    tested = sum(one.p_holm is not None for one in differences)
    if tested:
        found.append(HOLM.format(n=tested, baseline=arms.baseline))
    found += arms.missing
    return found + list(dict.fromkeys(one.estimate.note for one in differences if one.estimate.note))


def write_tables(root: Path, plan: Plan, arms: Arms, differences: Sequence[Difference]) -> None:
    """table.md and table.tex."""
    values, best = values_table(arms)
    parts = [(values, best)] + ([(ranks_table(arms), set())] if arms.ranks else [])
    parts += [(differences_table(arms, differences), set())] if differences else []
    remarks = notes(arms, differences)
    title = plan.grid.title or "Ablation"
    lines = [f"# {title}", *(markdown(table, marked) for table, marked in parts), "\n".join(f"- {n}" for n in remarks)]
    write_text(root / MARKDOWN, "\n\n".join(lines) + "\n")
    write_text(root / LATEX, "\n".join(latex(table, marked, remarks) for table, marked in parts))


def markdown(table: Table, best: Set[tuple[int, int]] = frozenset()) -> str:
    """A table of Markdown, the best values in bold."""
    lines = [f"## {table.title}\n"] if table.title else []
    lines += [_line(table.header), _line(["---" if j == 0 else "---:" for j in range(len(table.header))])]
    for i, row in enumerate(table.rows):
        lines.append(_line([f"**{cell}**" if (i, j) in best else str(cell) for j, cell in enumerate(row)]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def latex(table: Table, best: set[tuple[int, int]], remarks: Sequence[str]) -> str:
    """A table of LaTeX (booktabs), the best values in bold."""
    body = []
    for i, row in enumerate(table.rows):
        cells = [_escaped(str(cell)) for cell in row]
        body.append([f"\\textbf{{{cell}}}" if (i, j) in best else cell for j, cell in enumerate(cells)])
    lines = [
        *(f"% {line}" for line in ([table.title] if table.title else []) + list(remarks)),
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        " & ".join(_escaped(name) for name in table.header) + r" \\",
        r"\midrule",
        *(" & ".join(cells) + r" \\" for cells in body),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    text = text.replace("\\", r"\textbackslash ")
    return "".join(ESCAPES.get(letter, letter) for letter in text)
