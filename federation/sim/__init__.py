"""The simulator: a whole federation in one process, one virtual clock, faults drawn from a seed."""
