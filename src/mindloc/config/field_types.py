"""Types of settings: allowed values, stated once for the check, the error message and the docs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, Strict
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, eq=False)
class Note:
    """A text on what the type alone does not state; messages and docs append it to the type's description."""

    says: str

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "says": self.says}


@dataclass(frozen=True, eq=False)
class Condition(Note):
    """A condition on the whole value, with its description."""

    accepts: Callable[[Any], bool]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._require, handler(source))

    def _require(self, value: Any) -> Any:
        if not self.accepts(value):
            raise ValueError(self.says)
        return value


@dataclass(frozen=True, eq=False)
class NameIn:
    """A name in a table of mindloc/registry.py, looked up when the value is checked."""

    table: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._require, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.table)}

    def _require(self, name: str) -> str:
        if name not in self.table:
            raise ValueError("unknown name")
        return name


@dataclass(frozen=True, eq=False)
class ReadWith:
    """The setting is read only if the config key ``key`` has one of ``values``.

    For choices that the schema itself lists; the entries of mindloc/registry.py state which keys their parts read.
    """

    key: str
    values: tuple[str, ...]


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("not a number")
    return value


def _as_text(value: Any) -> Any:
    """A scalar as text: a run may be named 7, or 2026-11-30, which YAML reads as a date. A bool is not converted, since
    the user may have written "on"."""
    return value if value is None or isinstance(value, (bool, dict, list, tuple)) else str(value)


Flag = Annotated[bool, Strict()]
Text = Annotated[str, BeforeValidator(_as_text)]

Whole = Annotated[int, Strict()]
Count = Annotated[Whole, Field(gt=0)]
Natural = Annotated[Whole, Field(ge=0)]

NoBool = BeforeValidator(_refuse_bool)  # must come after the limits, so that pydantic applies them to a number
Positive = Annotated[float, Field(gt=0), NoBool]  # a string is accepted too, since PyYAML reads 1e-3 as a string
NotNegative = Annotated[float, Field(ge=0), NoBool]
Share = Annotated[float, Field(ge=0, le=1), NoBool]
OpenShare = Annotated[float, Field(gt=0, lt=1), NoBool]
Probability = Share

LowerFirst = Condition("the lower first", lambda low_high: low_high[0] <= low_high[1])
SizePx = tuple[Count, Count]  # height, width
