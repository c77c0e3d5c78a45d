"""The commands, a file each; `cli` loads only the one that is asked for, so that `serve` starts soon."""
