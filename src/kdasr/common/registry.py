"""Things that are known by a name, such as the formats of results: each adds itself where it is written."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Registry(dict[str, T]):
    """Things by name, in the order in which they were added."""

    def __init__(self, what: str) -> None:
        """`what`: one of them is called, in messages."""
        super().__init__()
        self._what = what

    def register(self, name: str) -> Callable[[T], T]:
        """Make a thing known by its name; a decorator.

        Raises:
            ValueError: another one has that name.
        """
        if name in self:
            raise ValueError(f"'{name}' is the name of another {self._what}")

        def add(thing: T) -> T:
            self[name] = thing
            return thing

        return add
