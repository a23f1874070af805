"""Measured claims: what Meterline does in a second, a gigabyte and a millisecond, beside peers and limits."""
