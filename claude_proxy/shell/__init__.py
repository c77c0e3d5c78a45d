"""The shell: whatever talks to the network, the clock and the terminal."""
