"""The questions that rapgym was made for, with their verdicts, in Markdown."""

from pathlib import Path

from rapgym.bench.results import Results
from rapgym.report import beside, questions
from rapgym.report.markdown import table
from rapgym.studies.pages import days


def page(found: Results, folder: Path) -> str:
    """All questions with verdicts over the headline's scenarios, what each scenario says, and what days say.

    Args:
        folder: of the other results.
    """
    runs, served = (beside.read(folder, name) for name in ("fidelity.json", "serving.json"))
    asked = questions.all_asked(found, runs, served)
    rows = [[each.asked, each.hypothesis, each.verdict] for each in asked]
    details = [
        [each.asked, f"`{name}`", answer.verdict, answer.number]
        if answer
        else [each.asked, f"`{name}`", "not asked", ""]
        for each in asked
        for name, answer in each.answers
    ]
    parts = [
        table(("question", "hypothesis", "verdict"), rows, left=3),
        questions.RULES,
        table(("question", "scenario or run", "verdict", "number"), details, left=4),
        days.answers(folder),
    ]
    return "\n\n".join(part for part in parts if part)
