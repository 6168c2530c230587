"""The composition root: the one room that joins settings, warehouse, sources and engine.

::

    accounts ──► warehouse ──┐
        │                    ├──► work
        └──────► sources ────┘

Who only looks at the warehouse imports ``warehouse``, and nothing of the sources.
"""
