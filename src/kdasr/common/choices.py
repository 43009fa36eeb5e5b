"""Sections of a configuration that come in kinds, such as `encoder: {type: ..., ...}`.

```python
@dataclass
class EncoderConfig(OptionChoice):
    type: str = "plain"  # of a section that does not say

@dataclass
class PlainConfig(EncoderConfig):
    type: str = "plain"
    dim: Annotated[int, at_least(1)] = 128
```
"""

from collections.abc import Mapping
from typing import Any

from kdasr.common.errors import UserError


class OptionChoice:
    """Base of a dataclass each of whose subclasses is a kind of it, with options of its own.

    The option `type` names the kind. A class is known from its definition on.
    """

    type: str

    @classmethod
    def kinds(cls) -> "dict[str, Any]":
        """The subclasses by their `type`; a class without subclasses is its own only kind."""
        return {kind.type: kind for kind in cls.__subclasses__()} or {cls.type: cls}

    @classmethod
    def kind_of(cls, options: Mapping[str, Any], where: str) -> Any:
        """The kind of a section with these options; the default one where they do not say.

        Raises:
            UserError: there is no such kind; the message names the option, which is in section `where`.
        """
        name, kinds = options.get("type", cls.type), cls.kinds()
        if name not in kinds:
            option = f"{where}.type" if where else "type"
            raise UserError(f"option '{option}' is {name}; expected one of {', '.join(kinds)}")
        return kinds[name]


def schema_for(schema: Any, options: Any, where: str = "") -> Any:
    """The class that a section with these options is an instance of: its kind where it has kinds."""
    if isinstance(schema, type) and issubclass(schema, OptionChoice) and isinstance(options, Mapping):
        return schema.kind_of(options, where)
    return schema
