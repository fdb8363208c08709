"""Errors that name the argument, say what came, what is needed and what to do."""

from __future__ import annotations


def _message(name: str, came: str, need: str, remedy: str) -> str:
    text = f"{name}: got {came}; need {need}."
    return f"{text} {remedy}" if remedy else text


class InputError(ValueError):
    """A value that cannot be used. `name` is the argument or the key at fault."""

    def __init__(self, name: str, came: str, need: str, remedy: str = "") -> None:
        super().__init__(_message(name, came, need, remedy))
        self.name = name


class NoGaussianClosure(ValueError):
    """An attention that does not keep Gaussians Gaussian, with the reason."""


class InputTypeError(TypeError):
    """A value of the wrong type. `name` is the argument or the key at fault."""

    def __init__(self, name: str, came: str, need: str, remedy: str = "") -> None:
        super().__init__(_message(name, came, need, remedy))
        self.name = name
