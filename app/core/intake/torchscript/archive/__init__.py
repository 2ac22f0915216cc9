"""The zip file: its end records, directory, names and layout, then the bytes of a member, with no zip library."""
