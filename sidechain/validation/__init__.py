"""Consensus rules of transactions, peg-ins and blocks."""
