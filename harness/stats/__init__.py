"""Statistics of ablations: intervals, two-way effects, multiplicity, verdicts, power. numpy and scipy only.

Legend: R runs, Q questions, P design columns, M contrasts, K samples per question.
"""
