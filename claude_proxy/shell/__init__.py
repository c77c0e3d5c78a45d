"""The network, the time and the terminal: everything that the pure core is spared."""
