"""Figures, with the colours and labels that they share."""
