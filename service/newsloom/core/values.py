"""Value classes of which thousands are made in a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

__all__ = ["value_class"]

if TYPE_CHECKING:
    from dataclasses import dataclass as value_class
else:

    def value_class(*, frozen: bool, slots: bool) -> Callable[[type], type]:
        """Make a dataclass that is frozen for the type checker, not at run time.

        A frozen one sets each field through `object.__setattr__`, and so takes three times as long
        to make. Nothing that is not type-checked handles these objects.
        """
        assert frozen  # noqa: S101 - what else would the type checker see to?
        return dataclass(slots=slots, unsafe_hash=True)
