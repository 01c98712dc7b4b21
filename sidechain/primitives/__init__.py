"""Formats, byte for byte: transactions, blocks, parent data, addresses."""
