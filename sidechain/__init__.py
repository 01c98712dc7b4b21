"""The chain: formats, script, validation, storage, mempool, wallet, API.

Imports neither peg nor federation.
"""
