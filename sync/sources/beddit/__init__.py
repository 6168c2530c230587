"""The Beddit cloud API v1: sleep sessions, their tracks, and their raw signal."""
