"""What can be seen of a running nightshift from outside."""
