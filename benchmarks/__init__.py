"""Benchmarks: one question per script, raw rows kept, tables computed from them."""
