"""RFC 8785 JSON for the federation's files; the reader and writer are `peg.canonical`.

Source: N2, N26.
"""

from peg.canonical import NotCanonical, canonical_json, strict_loads

__all__ = ["NotCanonical", "canonical_json", "strict_loads"]
