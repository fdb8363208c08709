"""What users add from outside of the package, each in a file of its own."""
