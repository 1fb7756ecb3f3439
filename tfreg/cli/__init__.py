"""The commands of `tfreg`, a module each."""
