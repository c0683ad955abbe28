"""The demonstration that `make demo` runs: the whole path, told in steps."""
