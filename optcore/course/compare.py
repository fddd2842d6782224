"""Where an answer's numbers part from the reference's, by how much, and why, if that is known."""

from __future__ import annotations

import numpy as np


def verdicts(results: list[dict], references: list[dict], rtol: float) -> list[str]:
    """For each case an empty string, or a sentence on where the answer fails.

    Args:
        results: one a case, `{"rows": {label: numbers}}` or `{"error": sentence}`, from anybody.
        references: the reference's rows, one a case.
        rtol: how far a number may be off, in units of the largest of its row in the reference.
    """
    pairs = zip(results, references, strict=True)
    return [first_difference(result, reference, rtol) for result, reference in pairs]


def usual_cause(results: list[dict], wrong: dict[str, list[dict]], rtol: float) -> str:
    """The sentence of the wrong answer whose numbers these are, in every case; else nothing.

    Args:
        results, rtol: as in `verdicts`.
        wrong: the results of wrong answers, by the sentence that names the mistake.
    """
    return " Or: ".join(cause for cause, others in wrong.items() if fits(results, others, rtol))


def first_difference(result: dict, reference: dict[str, list[float]], rtol: float) -> str:
    """An empty string, or a sentence with the first label at which the numbers part."""
    if "error" in result:
        return result["error"].rstrip(".") + "."
    for label, row in reference.items():
        numbers, right = _numbers(result["rows"].get(label), len(row)), np.array(row)
        if numbers is None:
            return f"{label}: there are no {len(row)} numbers."
        if not _close(numbers, right, rtol):
            return f"{label}: {_by_how_much(numbers, right)}."
    return ""


def fits(results: list[dict], others: list[dict], rtol: float) -> bool:
    """Whether an answer's results are those of another answer, in every case."""
    return all(
        "error" not in other and not first_difference(result, other["rows"], rtol)
        for result, other in zip(results, others, strict=True)
    )


def labelled(references: list[dict], results: list[list | None]) -> list[dict]:
    """Results from rows that were stored without labels, None for an error."""
    return [
        {"error": ""} if rows is None else {"rows": dict(zip(reference, rows, strict=True))}
        for reference, rows in zip(references, results, strict=True)
    ]


def _numbers(row, length: int) -> np.ndarray | None:
    if not isinstance(row, list) or len(row) != length:
        return None
    return np.array(row) if all(type(number) is float for number in row) else None


def _close(numbers, right, rtol: float) -> bool:
    finite = np.isfinite(right)  # NaN is close to NaN only, and infinity to itself
    scale = np.abs(right[finite]).max(initial=0)
    close = np.abs(numbers[finite] - right[finite]) <= rtol * scale + 1e-12
    return bool(close.all()) and np.array_equal(numbers[~finite], right[~finite], equal_nan=True)


def _by_how_much(numbers, right) -> str:
    if not np.isfinite(numbers).all():
        return "not all numbers are finite"
    worst = np.abs(numbers - right).argmax()
    far = abs(numbers[worst] - right[worst])
    return f"off by up to {far:.3g}, where the reference is {right[worst]:.3g}"
