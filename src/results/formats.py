"""The tables of a report, as Markdown, CSV and LaTeX and in the terminal."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from itertools import chain, count, groupby
from typing import Any

import pandas as pd
from rich.text import Text

from src.command_line import make_console, printable
from src.results import best, names
from src.results.marks import explanations
from src.results.protocols import reading
from src.results.published import describe
from src.results.summary import AVERAGE, PLACE, Cell
from src.results.summary_tables import Table
from src.terminal import print_rows

SPREAD = "± is half the 95 % interval of the mean over seeds (Student's t)."
BESIDE = "In brackets: points above the accuracy published in {}."
SAME_PROMPTS = (
    "In square brackets: zero-shot CLIP with the same prompts on the same images, where they are "
    "not the usual prompts or the method saw the test images."
)
BALANCE = "Images per class among those that ‡ saw together: {}."
AVERAGED = "The average is that of the datasets' means, for methods that were run on all of them."
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a formula begins with in a spreadsheet."""
MARKDOWN = str.maketrans({character: f"&#{ord(character)};" for character in "|[]`*#"})
# How LaTeX writes its special characters, and ours.
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"[": "{[}", "]": "{]}"}  # after a line's end, they are an argument
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    | {
        "±": r"$\pm$",
        "†": r"$^\dagger$",
        "‡": r"$^\ddagger$",
        "§": r"$^\S$",
        "¶": r"$^\P$",
        "→": r"$\rightarrow$",
        "−": "$-$",
    }
)


def notes(tables: Sequence[Table], bold: bool = True) -> list[str]:
    """Explain the signs that occur in the tables, and what is `bold` in them."""
    cells = [cell for table in tables for row in table.rows.values() for cell in row if cell]
    balances = dict.fromkeys(one for cell in cells for one in cell.balance.split("; ") if one)
    sources = dict.fromkeys(cell.source for cell in cells if cell.published is not None)
    return [
        *dict.fromkeys(note for table in tables for note in table.notes),
        *([AVERAGED] if any(table.title.startswith(AVERAGE) for table in tables) else []),
        *([SPREAD] if any(cell.interval is not None for cell in cells) else []),
        *([best.NOTE] if bold and any(map(_any_best, tables)) else []),
        *(BESIDE.format(describe(source)) for source in sources if source),
        *([SAME_PROMPTS] if any(cell.zero_shot is not None for cell in cells) else []),
        *explanations("".join(cell.marks for cell in cells)),
        *([BALANCE.format("; ".join(balances))] if balances else []),
    ]


def _any_best(table: Table) -> bool:
    return any(map(any, best.of_table(table).values()))


def markdown(tables: Sequence[Table]) -> str:
    """Write the tables in Markdown, those of each protocol with their own notes."""
    lines = []
    for group in _by_protocol(tables):
        for table in group:
            header = ["method", *table.columns]
            lines += [_markdown(table.title), "", _line(map(_markdown, header))]
            lines += [_line(["---"] * len(header))]
            lines += _rows(table, _markdown, "**", "**")
            lines += [""]
        lines += [f"{note}\n" for note in notes(group)]
    return "\n".join(lines)


def _rows(table: Table, escaped: Callable[[str], str], begin: str, end: str) -> list[str]:
    """Write the rows of a table in Markdown, the best figures between `begin` and `end`."""
    bold = best.of_table(table)
    return [
        _line([
            escaped(label),
            *(_emphasised(cell, is_best, escaped, begin, end)
              for cell, is_best in zip(row, bold[label], strict=True)),
        ])
        for label, row in table.rows.items()
    ]  # fmt: skip


def _emphasised(
    cell: Cell | None, is_best: bool, escaped: Callable[[str], str], begin: str, end: str
) -> str:
    written = escaped(text(cell))
    if cell is None or not is_best:
        return written
    number = f"{cell.mean:.2f}"
    return f"{begin}{number}{end}{written.removeprefix(number)}"


def latex(tables: Sequence[Table]) -> str:
    """Write the tables in LaTeX, for the package booktabs.

    Methods have their titles and cite their publications, by the keys in their configurations.
    """
    lines = [r"% needs \usepackage{booktabs}"]
    labels: list[str] = []
    for table in tables:
        bold = best.of_table(table)
        labels.append(_label(table.title, labels))
        lines += [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_latex(table.title)}}}",
            rf"  \label{{{labels[-1]}}}",
            rf"  \begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"    \toprule",
            f"    {_latex_line(map(_latex, ['method', *table.columns]))}",
            r"    \midrule",
            *(
                f"    {_latex_line([_cited(label), *_latex_cells(row, bold[label])])}"
                for label, row in table.rows.items()
            ),
            r"    \bottomrule",
            r"  \end{tabular}",
            *_latex_notes(notes([table])),
            r"\end{table}",
        ]
    return "\n".join([*lines, ""])


def csv(cells: pd.DataFrame) -> str:
    """Write a line per cell: `PLACE`, the metric, `Cell`'s fields and `difference`.

    H is followed by what it is of.
    """
    rows = [
        {**place, "metric": metric, **one._asdict(), "difference": one.difference}
        for place, cell in zip(cells[PLACE].to_dict("records"), cells["cell"], strict=True)
        for metric, one in {reading(place["protocol"]).metric: cell, **cell.parts}.items()
    ]
    return spreadsheet(pd.DataFrame(rows).drop(columns=["parts", "by_seed"], errors="ignore"))


def show(tables: Sequence[Table]) -> None:
    """Print the tables in the terminal, those of each protocol with their own notes."""
    for group in _by_protocol(tables):
        _show(group)


def _show(tables: Sequence[Table]) -> None:
    console = make_console()
    for table in tables:
        console.print(Text(f"\n{printable(table.title)}", "bold"))
        rows = [
            {"method": Text(label)}
            | {
                column: Text(text(cell).replace(" ± ", "±"))
                for column, cell in zip(table.columns, row, strict=True)
            }
            for label, row in table.rows.items()
        ]
        print_rows(rows, labels={"method"}, words={"method"})
    for note in notes(tables, bold=False):
        console.print(note, highlight=False)


def _by_protocol(tables: Sequence[Table]) -> list[list[Table]]:
    """Gather the tables whose figures are compared with those of one source."""
    return [list(group) for _, group in groupby(tables, key=lambda table: table.protocol)]


def text(cell: Cell | None) -> str:
    return "" if cell is None else str(cell)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(cell: str) -> str:
    """Write text so that Markdown takes no part of it for HTML, a link, a column or a line."""
    return " ".join(printable(escape(cell, quote=False)).translate(MARKDOWN).split())


def spreadsheet(frame: pd.DataFrame) -> str:
    """Write a table as CSV in which no text is a formula to a spreadsheet."""

    def literal(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value[:1] in FORMULA else value

    return frame.map(literal).to_csv(index=False)


def _latex_notes(notes: Sequence[str]) -> list[str]:
    """Put notes below a table, so that its signs reach a paper with their meaning."""
    if not notes:
        return []
    lines = [rf"  \parbox{{\linewidth}}{{\footnotesize {_latex(note)}}}" for note in notes]
    return [r"  \par\smallskip", *lines]


def _label(title: str, used: Sequence[str]) -> str:
    """Make what a paper refers to a table by, of plain letters, digits and hyphens."""
    label = "tab:" + "-".join(re.findall("[a-z0-9]+", title.lower()))
    several = (f"{label}-{number}" for number in count(2))
    return next(one for one in chain([label], several) if one not in used)


def _cited(label: str) -> str:
    key = names.citation(label)
    return _latex(names.shown(label)) + (rf"~\cite{{{key}}}" if key else "")


def _latex_cells(row: Sequence[Cell | None], bold: Sequence[bool]) -> Iterator[str]:
    for cell, is_best in zip(row, bold, strict=True):
        yield _emphasised(cell, is_best, _latex, r"\textbf{", "}")


def _latex_line(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _latex(text: str) -> str:
    return " ".join(printable(text).split()).translate(LATEX)
