"""The peg in the simulator: both chains, members and what may go wrong between them."""
