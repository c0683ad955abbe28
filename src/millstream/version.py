"""The version, in one place: of a checkout, of its wheel and of its documents."""

__version__ = "0.1.0"
