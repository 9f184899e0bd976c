"""Sentences of a report, terminal summary, exports."""
