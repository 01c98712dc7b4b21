"""The two-way peg: parent view, claims, peg-out batches, reserves. Imports sidechain only."""
