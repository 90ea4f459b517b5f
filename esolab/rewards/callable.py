"""A reward that is a function of your own, named on the command line."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from esolab.errors import BadInput
from esolab.rewards.base import MAX_BAD_SHARE, Share, check_lengths


class Function:
    """The function `package.module:name`, imported here and called with (prompts, responses, references).

    A run is known by the function's name, not by its code: give rerun=true after a change.

    Args:
        function: package.module:name, found as `import` finds it; it returns numbers [B, K], see `Reward`.
        settings: further arguments of the function, by name.
        max_bad_share: see conf/reward/callable.yaml.

    Raises:
        BadInput: there is no such module or name, it cannot be called, or not with these settings.
    """

    def __init__(
        self, function: str, settings: dict[str, Any] | None = None, max_bad_share: Share = MAX_BAD_SHARE
    ) -> None:
        self.function, self.settings, self.max_bad_share = imported(function), settings or {}, max_bad_share
        try:
            inspect.signature(self.function).bind([], [], [], **self.settings)
        except TypeError as error:
            raise BadInput(
                f"reward.function={function}: cannot be called with (prompts, responses, references) and "
                f"reward.settings={self.settings} ({error}); change one of them"
            ) from error
        except ValueError:  # written in C, without a signature
            pass

    def __call__(self, prompts: list[str], responses: list[list[str]], references: list[str]) -> Any:
        """What the function says of K answers to each of B prompts, as it returns it."""
        check_lengths(prompts, responses, references)
        return self.function(prompts, responses, references, **self.settings)


def imported(function: str) -> Callable[..., Any]:
    """What `package.module:name` stands for; the name may have dots.

    Raises:
        BadInput: there is no such module or name, or it cannot be called.
    """
    place = f"reward.function={function}"
    module, _, name = function.partition(":")
    if not module or not name:
        raise BadInput(f"{place}: not of the form package.module:name; give the name of a function so")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a module raises on import
        said = " ".join(str(error).split())
        raise BadInput(
            f"{place}: {module} cannot be imported ({type(error).__name__}: {said}); is its folder in PYTHONPATH?"
        ) from error
    try:
        called = attrgetter(name)(found)
    except AttributeError as error:
        raise BadInput(f"{place}: {module} has no {name}; give the name of a function that it has") from error
    if not callable(called):
        kind = type(called).__name__
        raise BadInput(f"{place}: of type {kind}, which cannot be called; give the name of a function")
    return called  # type: ignore[no-any-return]
