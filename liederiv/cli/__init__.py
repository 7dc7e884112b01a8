"""The command line: `liederiv score`, `compare`, `check`, `models`, `info`."""
