"""The commands, a module each: `run` takes the options and returns the exit code. Shared: `terminal`, `serving`."""
