"""Block agreement as a pure core (consensus.md): events in, effects out."""
