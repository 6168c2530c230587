"""The BACE IoT API v2."""
