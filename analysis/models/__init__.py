"""Many models side by side: leaderboards, architectures, statistics."""
