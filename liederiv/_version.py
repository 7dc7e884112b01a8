"""The version, in one place: setup.cfg and every result's provenance read it here."""

__all__ = ["__version__"]

__version__ = "0.1.0"
