"""The pickles of an archive: a machine that knows torch's opcodes and globals and calls nothing, and its reverse."""
