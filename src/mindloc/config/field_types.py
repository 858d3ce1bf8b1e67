"""Types of settings: what a value may be, stated once for the check, for the error message and for the docs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, Strict
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, eq=False)
class Note:
    """Words for what a type alone does not say; they follow its description."""

    says: str

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "says": self.says}


@dataclass(frozen=True, eq=False)
class Condition(Note):
    """A condition on the whole value, with the words for it."""

    holds: Callable[[Any], bool]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._require, handler(source))

    def _require(self, value: Any) -> Any:
        if not self.holds(value):
            raise ValueError(self.says)
        return value


@dataclass(frozen=True, eq=False)
class NameIn:
    """A name of a table of mindloc/registry.py, whatever it holds when the value is checked."""

    table: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._require, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.table)}

    def _require(self, name: str) -> str:
        if name not in self.table:
            raise ValueError("no such name")
        return name


@dataclass(frozen=True, eq=False)
class ReadWith:
    """The setting is read only where another key, a choice that is made in the schema itself, has one of these values.

    What the parts of mindloc/registry.py read stands in their entries.
    """

    key: str
    values: tuple[str, ...]


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("no number")
    return value


def _as_text(value: Any) -> Any:
    """A run may be called 7, or 2026-11-30, which YAML reads as a date; true was once the word on."""
    return value if value is None or isinstance(value, (bool, dict, list, tuple)) else str(value)


Flag = Annotated[bool, Strict()]
Text = Annotated[str, BeforeValidator(_as_text)]

Whole = Annotated[int, Strict()]
Count = Annotated[Whole, Field(gt=0)]
Natural = Annotated[Whole, Field(ge=0)]

NoBool = BeforeValidator(_refuse_bool)  # after the limits of a number, which pydantic then knows as such
Positive = Annotated[float, Field(gt=0), NoBool]  # a string too: PyYAML reads 1e-3 as one
NotNegative = Annotated[float, Field(ge=0), NoBool]
Share = Annotated[float, Field(ge=0, le=1), NoBool]
OpenShare = Annotated[float, Field(gt=0, lt=1), NoBool]
Probability = Share

LowerFirst = Condition("the lower first", lambda low_high: low_high[0] <= low_high[1])
SizePx = tuple[Count, Count]  # height, width
