"""Images and what is computed from them on grids: a kind of input, see `liederiv.domains`."""
