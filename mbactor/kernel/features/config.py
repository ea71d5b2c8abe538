"""`config()`: a property of an actor that is set from outside, typed and checked.

    class Orders(Actor):
        max_items: int = config(default=10, validation="int [1,100]")
        api_key: str = config(secret=True, validation="str ^[A-Za-z0-9]+$")

    child(Orders, config={"max_items": 20, "api_key": "abc"})

`properties.py` makes what a class declares ready; here is what stands in the class.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, TypeVar, overload

from mbactor.errors import DeclarationError
from mbactor.kernel.properties import ABSENT, Declared, properties_of
from mbactor.kernel.schema import locals_where_defined

T = TypeVar("T")


class Config(Declared):
    """A declared property. Taken from an instance it is the value, of the annotated type."""

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        try:
            return values_of(instance)[self.name]
        except KeyError:
            raise AttributeError(f"{owner.__name__}.{self.name} was not given, and it has no default") from None

    def __set__(self, instance: Any, value: Any) -> None:
        """For unit tests: on an instance made by hand."""
        cls, values = type(instance), values_of(instance)
        if type(values) is not dict:
            raise AttributeError(
                f"{cls.__name__}.{self.name} is set by the `config` of its child and changes with that; an attribute of"
                " another name expected"
            )
        try:
            values[self.name] = properties_of(cls)[self.name].read(value)
        except ValueError as error:
            raise ValueError(f"{cls.__name__}.{self.name}: {error}") from None


@overload
def config(*, default: T, validation: str = "", secret: bool = False, description: str = "") -> T: ...
@overload
def config(*, validation: str = "", secret: bool = False, description: str = "") -> Any: ...
def config(*, default: Any = ABSENT, validation: str = "", secret: bool = False, description: str = "") -> Any:
    """Declare a property that is set from outside: by `config:` in a topology file, or `child(Orders, config={...})`.

        max_items: int = config(default=10, validation="int [1,100]")
        pause: timedelta = config(default=timedelta(seconds=5), validation="dur [1s,15m]")
        mode: Literal["fast", "safe"] = config(default="safe")
        api_key: str = config(secret=True, validation="str ^[A-Za-z0-9]+$")

    It is read as an attribute, `self.max_items`, from `__init__` on, and is there in `self.config`, both read only. The
    annotation says of what type it is: a text, number, duration, one of a few words (`Literal`, an `Enum`), any of
    these or None, or what else travels in a message. `validation` is a rule of `mbactor.validation`. What has no
    default has to be given, but for a text that may be empty and for what may be None. A wrong declaration is a
    DeclarationError at the first `child`, spawn or `check` of the class.

    A `secret` is a text that no error, log line, plan or drawing shows; `str(self.api_key)` is the bare text.

    Where the file is changed and applied, the values of the running actor change between two messages, and its
    `on_config_changed` runs. On an instance made by hand, in a unit test, a property is set by assignment.
    """
    if not isinstance(validation, str):
        raise DeclarationError(f"config: validation: {validation!r} given, a text such as 'int [1,100]' expected")
    return Config(default, validation, secret=secret, description=description, local_names=locals_where_defined(2))


def values_of(instance: Any) -> Any:
    """The values of an actor by name: read only, but those of an instance that was made by hand."""
    values = instance._configuration  # noqa: SLF001 - the machinery's own mark on the actor
    if values is None:
        values = instance._configuration = dict(properties_of(type(instance)).complete({}))  # noqa: SLF001
    return values


def shown_values(instance: Any) -> MappingProxyType[str, Any]:
    """`self.config`."""
    values = values_of(instance)
    return MappingProxyType(values) if type(values) is dict else values
