"""Read a pickle as data: containers, numbers and text, and the few globals that a table allows.

A pickle is a program for a small stack machine, and two of its instructions can call anything that Python can
import. Here that machine is written out: nothing is ever imported by name. A global becomes whatever the table
holds for "module.name", and a name that the table lacks ends the reading with an error that says it. Instructions
that no NVIDIA snapshot needs (extension registry, instances of old-style classes, out-of-band buffers) are refused.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from raygseg.errors import CheckpointError

SCALARS = (str, int, float, bool, bytes, type(None))
# Instructions that carry their value.
LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
EMPTY: Mapping[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class Allowed:
    """What a permitted global stands for.

    Args:
        name: "module.name", for messages.
        make: called with the arguments that the pickle gives; None for names that are only mentioned (types).
    """

    def __init__(self, name: str, make: Callable[..., Any] | None = None) -> None:
        self.name, self.make = name, make


class Pending:
    """An object whose content arrives later, by BUILD; `finish(state)` gives the object itself."""

    def __init__(self, finish: Callable[[Any], Any]) -> None:
        self.finish = finish
        self.memo_keys: list[int] = []


_MARK = object()


class PickleReader:
    """One pickle read from a stream of bytes.

    Args:
        allowed: "module.name" -> what it stands for.
        origin: the file, for messages.
        persistent: what a persistent id stands for; None refuses them.
    """

    def __init__(
        self, allowed: Mapping[str, Allowed], origin: str, persistent: Callable[[Any], Any] | None = None
    ) -> None:
        self.allowed, self.origin, self.persistent = allowed, origin, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, stream: io.BytesIO) -> Any:
        """The object of the pickle at the stream's position, which then stands behind it.

        Raises:
            CheckpointError: a global that is not allowed (named), or bytes that are no whole pickle.
        """
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "STOP":
                    return self._take()
                self._step(opcode.name, argument)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, UnicodeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise self.broken(str(error)) from error
        raise self.broken("no end")

    def broken(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.origin}: not a whole pickle ({why})", "download or copy the file again")

    def refused(self, what: str) -> CheckpointError:
        hint = "only tensors, arrays and plain containers are read, and nothing of the file was run"
        if what.startswith("dnnlib.tflib."):
            hint = "this is a TensorFlow snapshot: convert it with legacy.py of NVIDIA's PyTorch code first"
        return CheckpointError(f"{self.origin}: the pickle asks for {what}, which is refused", hint)

    # --- the machine -----------------------------------------------------------------------------

    def _step(self, name: str, argument: Any) -> None:
        if name in LITERALS:
            self.stack.append(argument)
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            pass
        else:
            step = getattr(self, f"_{name.lower()}", None)
            if step is None:
                raise self.refused(f"the instruction {name}")
            step(argument)

    def _take(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def _above_mark(self) -> list[Any]:
        """Take everything above the topmost mark, and the mark."""
        position = len(self.stack) - 1
        while self.stack[position] is not _MARK:
            if position <= 0:
                raise ValueError("no mark")
            position -= 1
        values = self.stack[position + 1 :]
        del self.stack[position:]
        return values

    def _top(self, kind: type) -> Any:
        top = self.stack[-1]
        if type(top) is not kind:
            raise TypeError(f"a {type(top).__name__} where a {kind.__name__} should be")
        return top

    def _mark(self, _: None) -> None:
        self.stack.append(_MARK)

    def _pop_mark(self, _: None) -> None:
        self._above_mark()

    def _pop(self, _: None) -> None:
        self.stack.pop()

    def _dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    # --- memo ------------------------------------------------------------------------------------

    def _remember(self, key: int) -> None:
        top = self.stack[-1]
        if isinstance(top, Pending):
            top.memo_keys.append(key)
        self.memo[key] = top

    def _memoize(self, _: None) -> None:
        self._remember(len(self.memo))

    def _binput(self, key: int) -> None:
        self._remember(key)

    _long_binput = _put = _binput

    def _binget(self, key: int) -> None:
        self.stack.append(self.memo[key])

    _long_binget = _get = _binget

    # --- containers ------------------------------------------------------------------------------

    def _tuple(self, _: None) -> None:
        self.stack.append(tuple(self._above_mark()))

    def _last(self, count: int) -> None:
        values = [self._take() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))

    def _tuple1(self, _: None) -> None:
        self._last(1)

    def _tuple2(self, _: None) -> None:
        self._last(2)

    def _tuple3(self, _: None) -> None:
        self._last(3)

    def _list(self, _: None) -> None:
        self.stack.append(self._above_mark())

    def _append(self, _: None) -> None:
        value = self._take()
        self._top(list).append(value)

    def _appends(self, _: None) -> None:
        values = self._above_mark()
        self._top(list).extend(values)

    def _dict(self, _: None) -> None:
        self.stack.append(_pairs(self._above_mark()))

    def _setitem(self, _: None) -> None:
        value, key = self._take(), self._take()
        self._top(dict).update(_pairs([key, value]))

    def _setitems(self, _: None) -> None:
        values = self._above_mark()
        self._top(dict).update(_pairs(values))

    def _additems(self, _: None) -> None:
        values = self._above_mark()
        self._top(set).update(_scalar(value) for value in values)

    def _frozenset(self, _: None) -> None:
        self.stack.append(frozenset(_scalar(value) for value in self._above_mark()))

    # --- globals and what is made of them --------------------------------------------------------

    def _find(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}"
        if type(module) is not str or type(name) is not str or full not in self.allowed:
            raise self.refused(full)
        self.stack.append(self.allowed[full])

    def _global(self, words: str) -> None:
        module, _, name = words.partition(" ")
        self._find(module, name)

    def _stack_global(self, _: None) -> None:
        name, module = self._take(), self._take()
        self._find(module, name)

    def _reduce(self, _: None) -> None:
        arguments, function = self._take(), self._take()
        self.stack.append(self._made(function, arguments, {}))

    def _newobj(self, _: None) -> None:
        self._reduce(None)

    def _newobj_ex(self, _: None) -> None:
        keywords, arguments, function = self._take(), self._take(), self._take()
        self.stack.append(self._made(function, arguments, keywords))

    def _made(self, function: Any, arguments: Any, keywords: Any) -> Any:
        if not isinstance(function, Allowed) or function.make is None:
            name = function.name if isinstance(function, Allowed) else f"a {type(function).__name__}"
            raise self.refused(f"a call of {name}")
        if type(arguments) is not tuple or keywords:
            raise TypeError(f"{function.name} with arguments that are no plain tuple")
        return function.make(*arguments)

    def _build(self, _: None) -> None:
        state, thing = self._take(), self._take()
        if isinstance(thing, Pending):
            done = thing.finish(state)
            for key in thing.memo_keys:
                self.memo[key] = done
            self.stack.append(done)
        elif type(thing) is dict and isinstance(state, dict):
            # A dict subclass that also has attributes (EasyDict keeps none of its own).
            self.stack.append(thing)
        else:
            raise self.refused(f"setting the state of a {type(thing).__name__}")

    def _binpersid(self, _: None) -> None:
        identity = self._take()
        if self.persistent is None:
            raise self.refused("a persistent id")
        self.stack.append(self.persistent(identity))


def _scalar(value: Any) -> Any:
    """Keys are scalars: hashing nested tuples of a hostile file could take for ever."""
    if type(value) not in SCALARS:
        raise TypeError(f"a {type(value).__name__} as a key")
    return value


def _pairs(values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise ValueError("a key without a value")
    return {_scalar(key): value for key, value in zip(values[::2], values[1::2], strict=True)}
