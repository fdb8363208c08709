"""Tests of the time stepping."""
