"""What a run directory holds beside its status, log and checkpoints: of one system, or of several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from fastpde.run.checkpoint import Checkpoint


class Contents(ABC):
    """What a run directory holds, and how far it is."""

    @abstractmethod
    def open(self, folder: Path, kept: Checkpoint | None) -> None:
        """Make the files in a new folder, or go on with those of a checkpoint. Raises InputError, OutputError."""

    @abstractmethod
    def restore(self, kept: Checkpoint) -> None:
        """Restore the state of a checkpoint."""

    @abstractmethod
    def span(self) -> tuple[float, float, float]:
        """Return start, present value and end of the quantity that measures progress: time, or number of systems."""

    @abstractmethod
    def reached(self) -> dict[str, Any]:
        """Return the entries of status.json that say how far the run is."""

    @abstractmethod
    def kept(self) -> str:
        """Return what is stored, as the beginning of a sentence."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the facts and arrays of a checkpoint; None if there is nothing to go on with. Collective."""

    @abstractmethod
    def progress(self, facts: dict[str, Any]) -> int:
        """Return how far a checkpoint with these facts is: a number that grows with all that a run keeps."""

    def where(self) -> str:
        """Return how far the run is, for the line of log.txt with which it goes on."""
        return self.kept()

    def remarks(self) -> str:
        """Return a remark on the results, to be added to the message of how the run ended; "" for none."""
        return ""

    def sums(self) -> dict[str, Any]:
        """Return what status.json says of the sums."""
        return {}
