"""Runs of the command line: run directory, trajectory, observables, progress, signals; `runner.run` combines them."""
