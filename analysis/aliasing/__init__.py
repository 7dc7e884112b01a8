"""What aliasing contributes, and what is left when it is repaired."""
