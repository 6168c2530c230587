"""nightshift: copies what two sensor clouds hold into PostgreSQL, completely."""
