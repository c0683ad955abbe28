"""The commands of `millstream`, a module each."""
