"""Both vendors' APIs on loopback, written from the vendors' documents and from nothing else.

An emulator has to be able to prove a client wrong, so this room imports nothing from the rest of
``sync`` and shares no constant, no parser and no assumption with it.
"""
