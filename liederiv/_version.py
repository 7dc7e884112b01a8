"""The version, in one place: setup.cfg and every result's provenance read it here."""

__version__ = "0.1.0"
