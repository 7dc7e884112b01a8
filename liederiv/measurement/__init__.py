"""`measure` and what it returns: scores, intervals, provenance, files, comparisons."""
