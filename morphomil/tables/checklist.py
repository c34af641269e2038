"""The items of two reporting checklists in short words of our own, and which of a run's facts
answers each.

TRIPOD+AI: Collins et al. 2024, doi 10.1136/bmj-2023-078378 (27 items, some in parts). CLAIM: Mongan
et al. 2020, doi 10.1148/ryai.2020200029 (42 items). The originals say more; this is where to start
from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

AUTHOR = "AUTHOR TO FILL"
"""This stands where a run can't know what a paper has to say."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a run knows of the checklists' items, each in words; "" where it knows nothing.

    Items name these fields.
    """

    annotations: str = ""
    building: str = ""
    by_split: str = ""
    characteristics: str = ""
    choice: str = ""
    classes: str = ""
    explanation: str = ""
    failures: str = ""
    flow: str = ""
    handling: str = ""
    initialization: str = ""
    level: str = ""
    measures: str = ""
    misclassified: str = ""
    missing: str = ""
    model: str = ""
    numbers: str = ""
    outcome: str = ""
    output: str = ""
    partitions: str = ""
    performance: str = ""
    predictors: str = ""
    preparation: str = ""
    regions: str = ""
    robustness: str = ""
    scoring: str = ""
    sites: str = ""
    software: str = ""
    subgroups: str = ""
    uncertainty: str = ""


class Item(NamedTuple):
    """An item of a checklist; `fact` names the field of `Facts` that answers it, if a run can know
    any."""

    number: str
    words: str
    fact: str = ""


TRIPOD_AI = (
    Item("1", "Title: a prediction model developed or evaluated, its population and outcome"),
    Item("2", "Abstract (see TRIPOD+AI for Abstracts)"),
    Item("3a", "Background: health care context, rationale, existing models"),
    Item("3b", "Background: target population, intended purpose and users"),
    Item("3c", "Background: known health inequalities between groups"),
    Item("4", "Objectives: development, evaluation or both"),
    Item("5a", "Data: sources, why these, how representative"),
    Item("5b", "Data: dates of accrual and of the end of follow-up"),
    Item("6a", "Participants: setting, number and places of centers", "sites"),
    Item("6b", "Participants: eligibility"),
    Item("6c", "Participants: treatments received"),
    Item("7", "Data preparation and quality checks, alike in all groups", "preparation"),
    Item("8a", "Outcome: definition, time, how assessed", "outcome"),
    Item("8b", "Outcome: who assessed it, if subjective"),
    Item("8c", "Outcome: blinding of its assessment"),
    Item("9a", "Predictors: how the first ones were chosen"),
    Item("9b", "Predictors: definition and measurement", "predictors"),
    Item("9c", "Predictors: who assessed them, if subjective"),
    Item("10", "Sample size: how it was arrived at, enough for the question"),
    Item("11", "Missing data: how handled, what was left out", "missing"),
    Item("12a", "Analysis: how data were used for development and evaluation", "partitions"),
    Item("12b", "Analysis: how predictors were handled", "handling"),
    Item("12c", "Analysis: kind of model, building steps, tuning, internal validation", "building"),
    Item("12d", "Analysis: differences between clusters (hospitals, countries)"),
    Item("12e", "Analysis: measures and plots of performance, comparisons of models", "measures"),
    Item("12f", "Analysis: updating of the model (recalibration)"),
    Item("12g", "Analysis: how predictions were calculated in the evaluation", "scoring"),
    Item("13", "Class imbalance: what was done about it, and recalibrated after", "classes"),
    Item("14", "Fairness: what was done about it and why", "subgroups"),
    Item("15", "Output of the model: probability or class, how cutoffs were found", "output"),
    Item("16", "Differences between development and evaluation data", "by_split"),
    Item("17", "Ethical approval and consent"),
    Item("18a", "Funding and role of the funders"),
    Item("18b", "Conflicts of interest"),
    Item("18c", "Protocol: where to find it"),
    Item("18d", "Registration"),
    Item("18e", "Data sharing"),
    Item("18f", "Code sharing", "software"),
    Item("19", "Patient and public involvement"),
    Item("20a", "Flow of participants, with and without the outcome", "flow"),
    Item("20b", "Characteristics, overall and by source, with missing data", "characteristics"),
    Item("20c", "Comparison of development and evaluation data", "by_split"),
    Item("21", "Participants and outcome events in each analysis", "numbers"),
    Item("22", "The full model: what others need to predict with it", "model"),
    Item("23a", "Performance with intervals, in subgroups too", "performance"),
    Item("23b", "Performance between clusters, if examined"),
    Item("24", "Results of updating the model, if any"),
    Item("25", "Interpretation, with fairness and earlier studies in mind"),
    Item("26", "Limitations and what they do to bias and generalizability"),
    Item("27a", "Use: how poor or missing input is met", "failures"),
    Item("27b", "Use: what users must do and know"),
    Item("27c", "Next steps of research"),
)
CLAIM = (
    Item("1", "Title or abstract: a study of AI, and of which kind"),
    Item("2", "Structured summary"),
    Item("3", "Background, intended use and clinical role"),
    Item("4", "Objectives and hypotheses"),
    Item("5", "Prospective or retrospective"),
    Item("6", "Goal: model creation, exploration, feasibility, non-inferiority"),
    Item("7", "Data sources"),
    Item("8", "Eligibility: how, where and when participants or images were chosen"),
    Item("9", "Preprocessing of images", "preparation"),
    Item("10", "Parts of the data that were chosen, such as regions or patches", "regions"),
    Item("11", "Definitions of data elements", "predictors"),
    Item("12", "De-identification"),
    Item("13", "Missing data", "missing"),
    Item("14", "Reference standard: definition", "outcome"),
    Item("15", "Reference standard: why this one"),
    Item("16", "Reference standard: who annotated, with which training"),
    Item("17", "Annotation tools", "annotations"),
    Item("18", "Variability between and within raters, and what was done about it"),
    Item("19", "Intended sample size and how it was determined"),
    Item("20", "How data were assigned to partitions", "partitions"),
    Item("21", "Level at which partitions are disjoint", "level"),
    Item("22", "The model in detail: input, layers, output", "building"),
    Item("23", "Software libraries and versions", "software"),
    Item("24", "Initialization of the parameters", "initialization"),
    Item("25", "Training: augmentation, hyperparameters, number of models", "building"),
    Item("26", "How the final model was chosen", "choice"),
    Item("27", "Ensembling"),
    Item("28", "Measures of performance", "measures"),
    Item("29", "Statistics of significance and uncertainty", "uncertainty"),
    Item("30", "Robustness or sensitivity analysis", "robustness"),
    Item("31", "Methods of explanation and how they were checked", "explanation"),
    Item("32", "Evaluation on external data"),
    Item("33", "Flow of participants or cases", "flow"),
    Item("34", "Characteristics of cases in each partition", "characteristics"),
    Item("35", "Performance of the final models in all partitions", "performance"),
    Item("36", "Diagnostic accuracy and its precision", "performance"),
    Item("37", "Failure analysis: misclassified cases", "misclassified"),
    Item("38", "Limitations, bias, generalizability"),
    Item("39", "Implications for practice"),
    Item("40", "Registration"),
    Item("41", "Where to find the protocol"),
    Item("42", "Funding and role of the funders"),
)


def checklist_page(facts: Facts) -> str:
    """Both checklists as Markdown tables, each item with its fact; where there is none the author
    fills it in."""
    answers: dict[str, str] = vars(facts)
    lines = ["# Reporting checklists: what this run knows", ""]
    for title, items in (("TRIPOD+AI", TRIPOD_AI), ("CLAIM", CLAIM)):
        lines += [f"## {title}", "", "| | item | |", "|---|---|---|"]
        for number, words, fact in items:
            answer = ((answers[fact] if fact else "") or AUTHOR).replace("|", r"\|")
            lines.append(f"| {number} | {words} | {answer} |".replace("\n", " "))
        lines.append("")
    return "\n".join(lines)
