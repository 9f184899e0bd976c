"""The numbers of a study. Imports nothing of tables, figures or text."""
