"""Whether a version is slower than another, on machines whose speed nobody can rely on."""
