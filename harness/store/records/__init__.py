"""What a run, its attempts and its plan leave on disk, declared once.

Every class states the keys of one JSON object, in the order in which they are written. A field marked `absent()` is
off the disk where it holds its default: it tells of something that did not happen, or was not yet recorded by an
earlier version with the same schema. All others are always written, None as null.

Readers and writers are in `attempts`, `folders` and `study`; the schema's numbers are in `schema`.
"""

from __future__ import annotations

from harness.store.records.attempt import (
    AttemptBegin,
    AttemptEnd,
    AttemptError,
    Ending,
    EventRecord,
    Provenance,
)
from harness.store.records.evaluation import (
    EvaluatedCompletions,
    EvaluationFigures,
    EvaluationRecord,
    EvaluationScores,
    EvaluationSettings,
    EvaluationTiming,
    EvaluationTokens,
    LongerEvaluation,
    MadeBy,
    RepeatFigures,
)
from harness.store.records.looks import LookRecord, LooksRecord
from harness.store.records.plan import (
    CellEntry,
    DetectableEntry,
    DiskEstimate,
    InvocationRecord,
    JobEntry,
    JobEstimate,
    JobFork,
    PlanRecord,
    PlanTotals,
    TotalEstimate,
)
from harness.store.records.step import (
    Alarm,
    CompletionFigures,
    DrawingFigures,
    Energy,
    Load,
    MemoryPeaks,
    RewardFigures,
    RewardFunctionFigures,
    StepFigures,
    StepRecord,
    StepTiming,
    StepTokens,
)

__all__ = [
    "Alarm",
    "AttemptBegin",
    "AttemptEnd",
    "AttemptError",
    "CellEntry",
    "CompletionFigures",
    "DetectableEntry",
    "DiskEstimate",
    "DrawingFigures",
    "Ending",
    "Energy",
    "EvaluatedCompletions",
    "EvaluationFigures",
    "EvaluationRecord",
    "EvaluationScores",
    "EvaluationSettings",
    "EvaluationTiming",
    "EvaluationTokens",
    "EventRecord",
    "InvocationRecord",
    "JobEntry",
    "JobEstimate",
    "JobFork",
    "Load",
    "LongerEvaluation",
    "LookRecord",
    "LooksRecord",
    "MadeBy",
    "MemoryPeaks",
    "PlanRecord",
    "PlanTotals",
    "Provenance",
    "RepeatFigures",
    "RewardFigures",
    "RewardFunctionFigures",
    "StepFigures",
    "StepRecord",
    "StepTiming",
    "StepTokens",
    "TotalEstimate",
]
