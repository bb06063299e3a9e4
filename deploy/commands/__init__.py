"""One file per family of `mdrec` commands. Heavy imports stay inside the functions: `mdrec --help` is instant."""
