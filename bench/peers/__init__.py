"""Other ways to load the same nights; each is a program of its own and uses nothing of nightshift."""
