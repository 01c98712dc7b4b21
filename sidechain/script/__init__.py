"""Opcodes, signature hashes and the interpreter."""
