"""Running units: their order, their concurrency, and what becomes of a failure. Knows no I/O library."""
