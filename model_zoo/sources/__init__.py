"""Where models come from: a name, read once, becomes a `Source` that knows all that follows."""
