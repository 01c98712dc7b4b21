"""Agreement and the member process: consensus, journal, links, runner, command line."""
