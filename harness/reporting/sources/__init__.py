"""Where a study's records come from: other tools' files, comparisons of folders, lint findings."""
