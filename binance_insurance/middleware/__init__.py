"""Middleware by which programs of other libraries spend from a weight budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._aiohttp import BudgetMiddleware

if TYPE_CHECKING:
    from ._httpx import BudgetTransport
    from ._requests import BudgetAdapter

__all__ = ["BudgetAdapter", "BudgetMiddleware", "BudgetTransport"]

# Imported when first asked for: the package does not depend on these libraries.
_LATER = {"BudgetAdapter": "requests", "BudgetTransport": "httpx"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    library = _LATER[name]
    try:
        import_module(library)
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} is for programs that use {library}: install it") from error
    found: object = getattr(import_module(f"._{library}", __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
