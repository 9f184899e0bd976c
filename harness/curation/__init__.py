"""Curation: the funnel from a pool of candidates to a compact dataset."""
