"""How fast nightshift is, beside what else could be done: ``python -m bench`` (or ``make bench``)."""
