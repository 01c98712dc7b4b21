"""Hashes and keys on library code."""
