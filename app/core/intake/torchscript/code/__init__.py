"""The printed code of an archive: parsed to a program, every name and operator resolved, and printed again."""
