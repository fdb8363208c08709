"""The batch layer: run directory, trajectory, observables, progress, signals; `runner.run` puts them
together.
"""
