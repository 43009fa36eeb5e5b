"""The terms of the objective, one file each: a file in this folder needs no other mention."""

from dataclasses import field, make_dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from kdasr.distillation.objective_config import ObjectiveOptions
from kdasr.distillation.terms.base import known_terms, section_of

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def objective_schema() -> type[ObjectiveOptions]:
    """The class of the section `objective`: the general options, and a section of each term with settings."""
    terms = known_terms().values()
    own = ObjectiveOptions.__dataclass_fields__
    return _schema(
        tuple(
            (section_of(term), term.settings)
            for term in terms
            if section_of(term) not in own and term.settings
        )
    )


@cache
def _schema(sections: tuple[tuple[str, Any], ...]) -> type[ObjectiveOptions]:
    added = [(name, settings, field(default_factory=settings)) for name, settings in sections]
    documented = {"__module__": __name__, "__doc__": ObjectiveOptions.__doc__}
    return make_dataclass("ObjectiveConfig", added, bases=(ObjectiveOptions,), namespace=documented)


if TYPE_CHECKING:
    ObjectiveConfig = ObjectiveOptions
else:
    ObjectiveConfig = objective_schema()
    """That of the terms in this folder."""
