"""For the reference: the names that a package loads when they are first used, found without importing it."""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?([^`]+)`")


class PublicNames(griffe.Extension):
    """Makes an alias of each name in a package's table ``_HOME``, name -> module below the package."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for module in [pkg, *pkg.modules.values()]:
            table = module.members.get("_HOME")
            if not isinstance(table, griffe.Attribute):
                continue
            for name, home in ast.literal_eval(str(table.value)).items():
                module.set_member(name, griffe.Alias(name, f"{module.path}.{home}.{name}"))

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Sphinx's roles, which Markdown does not know, become code."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
