"""TorchScript's markers with types: torch publishes neither the types nor, for one of them, the name."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

__all__ = ["ignore", "is_scripting"]

MethodT = TypeVar("MethodT", bound=Callable[..., Any])

# torch.jit does not list it in `__all__`, but documents it. The compiler knows the function under any name.
is_scripting = torch.jit.is_scripting  # type: ignore[attr-defined]


def ignore(method: MethodT) -> MethodT:
    """Mark a method for `torch.jit.script` to leave out: it is called from Python only."""
    return cast(MethodT, torch.jit.ignore(method))  # type: ignore[no-untyped-call]
