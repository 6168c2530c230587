"""One module a figure; each has a ``measure(bench)`` that gives the lines of the table."""
